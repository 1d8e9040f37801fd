"""The torch backend: blocks of rows that stay in the processor's cache.

Each pass of the op reads the logits from memory once, because every further look at a block hits the cache; no
temporary of the logits' size ever exists. All sums are relative to the row's largest (capped) logit m, subtracted
before the temperature divides, so that a shift of all logits costs no digit:

    d = (x - m) / temperature,   s = sum exp d,   n = columns in the support

`functional` has the other sums, and what becomes of them. The variance of log p takes one more look at the block, about
the mean that the first look has found.
"""

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from rlif_kernels.checks import check_values
from rlif_kernels.functional import STATISTICS, Moments, sums_of
from rlif_kernels.rows import Rows, RowState, row_coefficients, zero_results
from rlif_kernels.stats import IGNORE_INDEX, NO_COLUMN

# Elements of one scratch buffer (1 MiB of float32). Two are alive at a time, and the threads share them: they fit the
# L2 caches of two cores. A larger block falls out of cache; a smaller one pays more for dispatching each torch call.
BLOCK_ELEMENTS = 1 << 18
# Of what is multiplied with p, which is 0 there: its square times a coefficient must not overflow, since infinity times
# 0 is NaN.
LOWEST = -1e15
# Fields that are not of sums.
ORDER = frozenset({"argmax", "target_rank", "top_ids"})
# The integer that the bits of -inf are in the order of the numbers.
MINUS_INFINITY = -0x7F800001

Index = slice | Tensor  # which rows of a matrix: a range, or numbers where masked rows lie in between

# No fused loss: `grpo_loss` takes a forward and a backward.
grpo = None


def forward(logits: Tensor, rows: Rows, outputs: Sequence[str]) -> tuple[dict[str, Tensor], Tensor]:
    """`backends.Backend.forward`: statistics and row state, block by block."""
    ids, active, bad = _readable_targets(rows)
    fields, state = zero_results(logits, rows, outputs)
    block = Block(logits, rows)
    for (matrix,), local, index in row_blocks([logits], active, rows.num_columns):
        above = None if rows.rank_above is None else rows.rank_above[index, None]
        values = _forward_block(block.load(matrix, local, index), ids[index, None], outputs, above, rows.top)
        state[:, index] = torch.stack([values[name] for name in RowState._fields])
        for name in outputs:
            fields[name][index] = values[name]
    if bad is not None and "logprob" in fields:
        fields["logprob"].masked_fill_(bad, torch.nan)
    return fields, state


def _forward_block(
    block: "Block", ids: Tensor, outputs: Sequence[str], above: Tensor | None, num_top: int
) -> dict[str, Tensor]:
    x, sums = block.x, sums_of(outputs)
    m = x.amax(-1, keepdim=True)
    d = torch.sub(x, m, out=block.scratch(0))
    block.divide_by_temperature(d)
    d_y = d.gather(-1, ids)[:, 0]
    e = torch.exp(d, out=block.scratch(1))
    s = e.sum(-1)
    n = torch.full_like(s, x.shape[-1])
    guarded = torch.zeros_like(s, dtype=torch.bool)
    mean_d = mean_w = variance = mean_q = nothing = torch.zeros_like(s)
    complement = torch.ones_like(s)
    if sums & {"w", "t"}:
        mean_d = d.sum(-1) / n
        special = (~mean_d.isfinite()).nonzero()[:, 0]
        if len(special):
            # Columns of -inf leave the sums; rows of NaN stay NaN. Columns at the lowest finite float32 must not
            # overflow: divided by n before they are added up, and before the temperature, which may be below 1.
            # The block's other rows keep their bits.
            outside = x[special] == -torch.inf
            n[special] -= outside.sum(-1)
            terms = ((x[special] - m[special]) / n[special, None]).masked_fill_(outside, 0)
            tau = block.tau[special, 0] if isinstance(block.tau, Tensor) and len(block.tau) > 1 else block.tau
            if len(terms) == 1:
                terms = terms.expand(2, -1)  # a lone row would be summed by several threads, in another order
            mean_d[special] = terms.sum(-1)[: len(special)] / tau
            d[special] = d[special].masked_fill_(outside, 0).clamp_(min=torch.finfo(torch.float32).min)
            guarded[special] = outside.any(-1)
    if "v" in sums:
        # About the row's own mean, and not the maximum: the difference of the two moments would cancel.
        mean_w = (d * e).sum(-1) / s
        variance = d.sub_(mean_w[:, None]).clamp_(min=LOWEST).square_().mul_(e).sum(-1) / s
    elif "w" in sums:
        mean_w = d.mul_(e).sum(-1) / s
    if "logprob" in outputs:
        # 1 - p_y as a sum of the others: as a difference it would lose its digits where p_y is nearly 1.
        e_y = e.gather(-1, ids)
        complement = e.scatter_(-1, ids, 0).sum(-1) / s
        e.scatter_(-1, ids, e_y)
    if "q" in sums:
        mean_q = torch.mul(e, e, out=block.scratch(0)).sum(-1) / s.square()
    top = torch.stack([nothing, nothing], -1)
    if "x1" in sums:
        first, column = e.max(-1, keepdim=True)
        second = e.scatter_(-1, column, 0).amax(-1, keepdim=True)
        top = torch.cat([first, second], -1) / s[:, None]
    log_s = s.log()
    rank = top_ids = nothing
    if ORDER.intersection(outputs):
        rank, top_ids = _order(block.given, log_s[: block.num_rows].isnan(), above, outputs, num_top)
    row = Moments(
        (m / block.tau)[:, 0], log_s, (s / n).log(), d_y, mean_d, mean_w, variance, mean_q, top, rank, top_ids
    )  # fmt: skip
    values = {name: STATISTICS[name].value(row) for name in outputs}
    values |= RowState(
        m[:, 0],
        log_s,
        torch.where(guarded, -n.clamp(min=1), n),  # -0 would not look negative
        log_s - mean_w,
        mean_q,
        complement,
        nothing,
        variance,
    )._asdict()
    return {name: value[: block.num_rows] for name, value in values.items()}


def _order(
    x: Tensor, undefined: Tensor, above: Tensor | None, outputs: Sequence[str], num_top: int
) -> tuple[Tensor, Tensor]:
    """How many logits are larger than `above` (rows, 1), and the columns of the largest; 0 where not asked for.

    By the logits as they are: a softcap may round two of them to the same. Of `undefined` rows (rows,) NO_COLUMN.
    """
    rank = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    if "target_rank" in outputs:
        assert above is not None
        rank = (x > above).sum(-1)
    ids = rank[:, None]
    if "top_ids" in outputs:
        ids = top_columns(x, num_top)
    elif "argmax" in outputs:
        ids = x.argmax(-1, keepdim=True)  # of equal ones the first
    return rank.masked_fill(undefined, NO_COLUMN), ids.masked_fill(undefined[:, None], NO_COLUMN)


def top_columns(x: Tensor, count: int) -> Tensor:
    """The columns of the largest numbers, (rows, count) int64: the largest first, of equal ones the first column;
    NO_COLUMN where all others are -inf.

    A number and its column make one integer, in which torch.topk finds no two that are equal.
    """
    bits = (x.float() + 0.0).view(torch.int32)  # -0 has other bits than 0
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()
    keys = (ordered << 32) + (x.shape[-1] - 1 - torch.arange(x.shape[-1], device=x.device))
    best = keys.topk(min(count, x.shape[-1]), dim=-1).values
    ids = x.shape[-1] - 1 - (best & 0xFFFFFFFF)
    ids = ids.masked_fill(best >> 32 <= MINUS_INFINITY, NO_COLUMN)
    return torch.nn.functional.pad(ids, (0, count - ids.shape[-1]), value=NO_COLUMN)


def backward(grad_logits: Tensor, grads: dict[str, Tensor], logits: Tensor, rows: Rows, row_state: Tensor) -> None:
    """`backends.Backend.backward`: the gradient of the logits, block by block."""
    ids, active, bad = _readable_targets(rows)
    coefficients = row_coefficients(grads, row_state, rows)
    if bad is not None:
        coefficients["p"] = coefficients["p"].masked_fill(bad, torch.nan)
    block = Block(logits, rows)
    for (matrix, grad_matrix), local, index in row_blocks([logits, grad_logits], active, rows.num_columns):
        gradient = _backward_block(
            block.load(matrix, local, index),
            ids[index, None],
            RowState(*row_state[:, index, None]),
            {name: value[index, None] for name, value in coefficients.items()},
        )
        grad_matrix[local, : rows.num_columns] = gradient.to(grad_logits.dtype)
    grad_logits[..., rows.num_columns :] = 0
    if not active.all():
        grad_logits[~active.view(rows.targets.shape)] = 0


def row_maximum(row_state: Tensor, rows: Rows) -> Tensor:
    """The largest z of each row, (N,) float64."""
    return RowState(*row_state).m.double() / rows.flat_temperature


def distances(x: Tensor, row_state: Tensor, rows: Rows) -> Tensor:
    """z less the row's largest, (N, K) float64, of some capped logits of each row."""
    temperature = rows.flat_temperature
    if isinstance(temperature, Tensor):
        temperature = temperature.double()[:, None]
    return (x.double() - RowState(*row_state).m.double()[:, None]) / temperature


def _backward_block(block: "Block", ids: Tensor, state: RowState, coefficients: dict[str, Tensor]) -> Tensor:
    x = block.x[: block.num_rows]
    d = torch.sub(x, state.m, out=block.scratch(0)[: block.num_rows])
    block.divide_by_temperature(d)
    if "plogp" in coefficients or "uu" in coefficients:
        d.clamp_(min=LOWEST)
    logp = d.sub_(state.log_s)
    p = torch.exp(logp, out=block.scratch(1)[: block.num_rows])
    p_y, logp_y = p.gather(-1, ids), logp.gather(-1, ids)
    spread = own_spread = torch.zeros_like(p_y)
    if "uu" in coefficients:
        u, u_y = logp + state.entropy, logp_y + state.entropy
        spread, own_spread = (each * (each + 2) * coefficients["uu"] for each in (u, u_y))
    if "plogp" in coefficients:
        polynomial = logp.mul_(coefficients["plogp"]).add_(coefficients["p"])
    else:
        polynomial = logp.copy_(coefficients["p"].expand_as(logp))
    if "pp" in coefficients:
        polynomial.addcmul_(p, coefficients["pp"])
    if "uu" in coefficients:
        polynomial.add_(spread)
    gradient = polynomial.mul_(p)
    if "1" in coefficients:
        gradient.sub_(coefficients["1"])
    if "y" in coefficients:
        own = (
            coefficients["rest"] + coefficients.get("plogp", 0) * logp_y + coefficients.get("pp", 0) * p_y + own_spread
        )
        own = p_y * own - coefficients.get("1", 0) + coefficients["y"] * state.complement
        own = own + 0 * coefficients["p"]  # NaN where the target is out of range
        gradient.scatter_(-1, ids, own.where(x.gather(-1, ids) != -torch.inf, gradient.gather(-1, ids)))
    if block.softcap:
        # Here x is cap tanh(logit / cap), whose derivative is 1 - (x / cap)².
        gradient.mul_(1 - (x / block.softcap).square_())
    if block.softcap or (state.n < 0).any():
        gradient.masked_fill_(x == -torch.inf, 0)
    return gradient


class Block:
    """One block of rows in float32, after the softcap, and scratch of its size; the next block reuses both."""

    def __init__(self, logits: Tensor, rows: Rows) -> None:
        self.num_columns, self.temperature, self.softcap = rows.num_columns, rows.flat_temperature, rows.softcap
        num_rows = max(2, min(BLOCK_ELEMENTS // self.num_columns, logits.numel() // logits.shape[-1]))
        self.buffers = logits.new_empty((3, num_rows, self.num_columns), dtype=torch.float32)

    def load(self, matrix: Tensor, local: Index, index: Index) -> "Block":
        x = self.given = matrix[local, : self.num_columns]
        self.num_rows = len(x)
        self.tau = self.temperature
        if isinstance(self.temperature, Tensor):
            self.tau = self.temperature[index, None]
        if self.num_rows == 1:
            # torch sums a lone row with several threads, in another order than the same row in a batch.
            x = x.expand(2, -1)
        self.x = x
        if x.dtype != torch.float32:
            self.x = self.scratch(2).copy_(x)
        if self.softcap:
            # tanh would bring an infinity back into the finite range, where the row must know of it.
            infinite = x.isinf()
            capped = torch.div(self.x, self.softcap, out=self.scratch(2)).tanh_().mul_(self.softcap)
            self.x = torch.where(infinite, x.float(), capped) if infinite.any() else capped
        return self

    def divide_by_temperature(self, d: Tensor) -> None:
        if isinstance(self.tau, Tensor) or self.tau != 1:
            d.div_(self.tau)

    def scratch(self, which: int) -> Tensor:
        return self.buffers[which, : len(self.x)]


def row_blocks(
    tensors: Sequence[Tensor], active: Tensor, num_columns: int
) -> Iterator[tuple[list[Tensor], Index, Index]]:
    """Yield blocks of active rows of tensors (..., V) that have their rows in common: a matrix of each, which of their
    rows, which rows of all.

    The matrices are views: leading dimensions whose strides do not collapse into one are walked instead.
    """
    if tensors[0].ndim == 1:
        tensors = [tensor[None] for tensor in tensors]
    num_rows = max(2, BLOCK_ELEMENTS // num_columns)
    everything = bool(active.all())
    first = 0
    depth = max(_uncollapsible_dims(tensor) for tensor in tensors)
    for position in itertools.product(*map(range, tensors[0].shape[:depth])):
        matrices = [tensor[position].view(-1, tensor.shape[-1]) for tensor in tensors]
        count = len(matrices[0])
        if everything:
            for start in range(0, count, num_rows):
                stop = min(start + num_rows, count)
                yield matrices, slice(start, stop), slice(first + start, first + stop)
        else:
            for local in active[first : first + count].nonzero()[:, 0].split(num_rows):
                if len(local):
                    yield matrices, local, local + first
        first += count


def _uncollapsible_dims(logits: Tensor) -> int:
    """How many leading dimensions to index before the rest, less the last, collapses into one without a copy."""
    for depth in range(logits.ndim - 1):
        shape, strides = logits.shape[depth:-1], logits.stride()[depth:-1]
        if logits.numel() == 0 or all(
            strides[i] == strides[i + 1] * shape[i + 1] or shape[i] == 1 for i in range(len(shape) - 1)
        ):
            return depth
    raise AssertionError("a matrix needs no collapsing")


def _readable_targets(rows: Rows) -> tuple[Tensor, Tensor, Tensor | None]:
    """Ids that are safe to gather, which rows are active, and on a GPU which of those have a bad target; (N,) each."""
    if rows.targets.device.type == "cpu":
        check_values(rows)
    targets = rows.targets.reshape(-1)
    active, valid = targets != IGNORE_INDEX, (targets >= 0) & (targets < rows.num_columns)
    return targets.where(valid, 0), active, None if targets.device.type == "cpu" else active & ~valid
