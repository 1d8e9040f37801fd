"""The torch backend of divergences: blocks of pairs of rows that stay in the processor's cache.

Sums are float32, as in `backends.torch`; a row with a column outside a support, or with distances that overflow, takes
them in float64 with a guard on everything. In the later looks the lowest float32 stands for the distance of a logit of
-inf: its probability is 0 as well, and no difference is NaN.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from rlif_kernels.backends.torch import Block, Index, row_blocks
from rlif_kernels.pairs import NUM_SUMS, Pair, PairState, PairSums, active_rows, check_pair

LOWEST = torch.finfo(torch.float32).min


def sums(pair: Pair) -> Tensor:
    """`backends.pairs.PairBackend.sums`."""
    check_pair(pair)
    result = pair.weight.new_zeros((NUM_SUMS, pair.rows.num_rows), dtype=torch.float64)
    for x, y, index, *_ in _blocks(pair):
        result[:, index] = _block_sums(x, y)[:, : x.num_rows]
    return result


def mixture(pair: Pair, state: Tensor) -> Tensor:
    """`backends.pairs.PairBackend.mixture`."""
    result = torch.zeros_like(state[:2])
    for x, y, index, *_ in _blocks(pair):
        logp, logq, p, q = _probabilities(x, y, PairState(*state[:, index, None].float()))
        of_student, of_teacher = _log_ratios(logp, logq, pair.beta)
        both = torch.stack([of_student.mul_(p).sum(-1), of_teacher.mul_(q).sum(-1)])
        result[:, index] = both[:, : x.num_rows].double()
    return result


def gradient(grad_logits: Tensor, pair: Pair, state: Tensor) -> None:
    """`backends.pairs.PairBackend.gradient`."""
    num_columns, active = pair.rows.num_columns, active_rows(pair)
    scale = pair.weight / pair.rows.flat_temperature
    for x, y, index, target, local in _blocks(pair, grad_logits):
        values = _block_gradient(x, y, PairState(*state[:, index, None].float()), pair.kind, pair.beta)
        values.mul_(scale[index, None])
        if x.softcap:
            # Here x is cap tanh(logit / cap), whose derivative is 1 - (x / cap)².
            values.mul_(1 - (x.x / x.softcap).square_())
        if x.softcap or state[-1, index].any():
            values.masked_fill_(x.x == -torch.inf, 0)
        target[local, :num_columns] = values[: x.num_rows].to(grad_logits.dtype)
    grad_logits[..., num_columns:] = 0
    if not active.all():
        grad_logits[~active.view(pair.rows.targets.shape)] = 0


def _blocks(pair: Pair, grad_logits: Tensor | None = None) -> Iterator[tuple[Block, Block, Index, Tensor, Index]]:
    """Blocks of the student's and of the teacher's logits, which of all rows they are, and the matrix and its rows
    where their gradient is."""
    tensors = [pair.logits, pair.teacher_logits, pair.logits if grad_logits is None else grad_logits]
    x, y = Block(pair.logits, pair.rows), Block(pair.teacher_logits, pair.teacher_rows)
    for (student, teacher, target), local, index in row_blocks(tensors, active_rows(pair), pair.rows.num_columns):
        yield x.load(student, local, index), y.load(teacher, local, index), index, target, local


def _distances(block: Block, m: Tensor) -> Tensor:
    """(x - m) / temperature."""
    d = torch.sub(block.x, m, out=block.scratch(0))
    block.divide_by_temperature(d)
    return d


# ---------------------------------------------------------------- the first look


def _block_sums(x: Block, y: Block) -> Tensor:
    """`PairSums` of a block, (12, rows) float64."""
    m, teacher_m = x.x.amax(-1, keepdim=True), y.x.amax(-1, keepdim=True)
    d, teacher_d = _distances(x, m), _distances(y, teacher_m)
    e, teacher_e = torch.exp(d, out=x.scratch(1)), torch.exp(teacher_d, out=y.scratch(1))
    s, teacher_s = e.sum(-1), teacher_e.sum(-1)
    w, teacher_w = (e * d).sum(-1), (teacher_e * teacher_d).sum(-1)
    gap = d.sub_(teacher_d)
    a, teacher_a = e.mul_(gap).sum(-1), -teacher_e.mul_(gap).sum(-1)
    n, none = torch.full_like(s, x.num_columns), torch.zeros_like(s)
    result = torch.stack([
        m[:, 0], s, a, w, n, none, teacher_m[:, 0], teacher_s, teacher_a, teacher_w, n, none
    ]).double()  # fmt: skip
    special = (~(a + w + teacher_a + teacher_w).isfinite()).nonzero()[:, 0]
    if len(special):
        # A lone row would be summed by several threads, in another order. The block's other rows keep their bits.
        some = special.expand(2) if len(special) == 1 else special
        guarded = _guarded_sums(x.x[some].double(), y.x[some].double(), _some(x.tau, some), _some(y.tau, some))
        result[:, special] = guarded[:, : len(special)]
    return result


def _some(tau: float | Tensor, index: Tensor) -> float | Tensor:
    return tau[index].double() if isinstance(tau, Tensor) and len(tau) > 1 else tau


def _guarded_sums(x: Tensor, y: Tensor, tau: float | Tensor, teacher_tau: float | Tensor) -> Tensor:
    inside, teacher_inside = x != -torch.inf, y != -torch.inf
    m, teacher_m = x.amax(-1, keepdim=True), y.amax(-1, keepdim=True)
    d = ((x - m) / tau).masked_fill(~inside, 0)
    teacher_d = ((y - teacher_m) / teacher_tau).masked_fill(~teacher_inside, 0)
    e, teacher_e = d.exp().masked_fill(~inside, 0), teacher_d.exp().masked_fill(~teacher_inside, 0)
    gap = (d - teacher_d).masked_fill(~(inside & teacher_inside), 0)
    only, teacher_only = inside & ~teacher_inside, teacher_inside & ~inside
    return torch.stack(
        PairSums(
            m[:, 0], e.sum(-1), (e * gap).sum(-1), (e * d).sum(-1), inside.sum(-1), only.sum(-1),
            teacher_m[:, 0], teacher_e.sum(-1), -(teacher_e * gap).sum(-1), (teacher_e * teacher_d).sum(-1),
            teacher_inside.sum(-1), teacher_only.sum(-1),
        )
    )  # fmt: skip


# ---------------------------------------------------------------- later looks


def _probabilities(x: Block, y: Block, state: PairState) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """log p, log q, p and q."""
    logp = _distances(x, state.m).clamp_(min=LOWEST).sub_(state.log_s)
    logq = _distances(y, state.teacher_m).clamp_(min=LOWEST).sub_(state.teacher_log_s)
    return logp, logq, torch.exp(logp, out=x.scratch(1)), torch.exp(logq, out=y.scratch(1))


def _log_ratios(logp: Tensor, logq: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """log(p/m) and log(q/m), m = (1 - beta) p + beta q: relative to the larger of the two, exactly 0 where p = q."""
    difference = logq - logp
    teacher_larger = difference > 0
    smaller = difference.abs().neg_().exp_()
    larger = -torch.where(teacher_larger, (1 - beta) * smaller + beta, beta * smaller + (1 - beta)).log_()
    return torch.where(teacher_larger, larger - difference, larger), torch.where(
        teacher_larger, larger, larger + difference
    )


def _block_gradient(x: Block, y: Block, state: PairState, kind: str, beta: float) -> Tensor:
    """The gradient of each row's divergence to z."""
    logp, logq, p, q = _probabilities(x, y, state)
    if kind == "forward_kl":
        return p - q
    if kind == "reverse_kl":
        return logp.sub_(logq).sub_(state.mean).mul_(p)
    of_student, _ = _log_ratios(logp, logq, beta)
    return of_student.sub_(state.mean).mul_(p).mul_(1 - beta)
