"""`token_stats` where each rank of a process group holds a slice of the vocabulary.

Each rank computes the statistics of its own slice with the ordinary backend; what it adds to the whole is a handful of
numbers per row, which one all-gather shares. The slices then combine by the chain rule: with lse_r the log-sum-exp of
slice r, n_r its columns, H_r its entropy, and π_r = exp(lse_r - lse) the probability of falling into it,

    lse = log sum_r exp lse_r                       entropy = sum_r π_r (H_r - log π_r)
    logprob = logprob_owner + log π_owner           sum p² = sum_r π_r² (sum p²)_r
    self_certainty = sum_r n_r/n (self_certainty_r + log n_r - log π_r) - log n

The backward needs no exchange: the gradient of a slice depends on the others through these numbers alone. The few
numbers per row are combined in float64, where lse_r of shifted logits loses nothing.
"""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from rlif_kernels.reference import check_targets, check_temperatures
from rlif_kernels.stats import FIELDS, IGNORE_INDEX, STATE_ROWS


class VocabParallelTokenStats(torch.autograd.Function):
    """The fields of `TokenStats`, in order, of logits of which this rank holds one slice."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        targets: Tensor,
        temperature: float | Tensor,
        softcap: float,
        vocab_size: int | None,
        outputs: Sequence[str],
        inplace_backward: bool,
        backend: ModuleType,
        group: dist.ProcessGroup,
    ) -> tuple[Tensor | None, ...]:
        if logits.device.type == "cpu":
            check_temperatures(temperature, targets != IGNORE_INDEX)  # here on every rank alike, so that none waits
        sizes = _all_gather(torch.tensor([logits.shape[-1]], device=logits.device), group)[:, 0]
        ends = sizes.cumsum(0)
        offset = (ends - sizes)[dist.get_rank(group)]
        num_columns = logits.shape[-1]
        if vocab_size is not None:  # a number on the host decides what is read: worth a synchronisation
            if not 1 <= vocab_size <= int(ends[-1]):
                raise ValueError(
                    f"vocab_size is {vocab_size}; expected 1 to {int(ends[-1])}, the columns of all slices"
                )
            num_columns = min(max(vocab_size - int(offset), 0), num_columns)
        total = ends[-1] if vocab_size is None else vocab_size
        active = targets != IGNORE_INDEX
        if logits.device.type == "cpu":
            check_targets(targets, active, int(total))
        own_targets = targets - offset
        owner = active & (own_targets >= 0) & (own_targets < num_columns)
        own_targets = own_targets.where(owner, 0).masked_fill(~active, IGNORE_INDEX)
        out_of_range = (active & ((targets < 0) | (targets >= total))).view(-1)
        active, owner = active.view(-1), owner.view(-1)

        own, row_state = _slice_numbers(backend, logits, own_targets, temperature, softcap, num_columns, outputs, owner)
        parts = _all_gather(own, group)
        combined = _combine(parts, outputs)
        if "logprob" in combined:
            combined["logprob"] = combined["logprob"].masked_fill(out_of_range, torch.nan)

        # The state of a row relative to this rank's own maximum, so that the ordinary backward continues from it.
        own_max = own[_ROWS.index("m")]
        row_state[1] = (combined["logsumexp"] - own_max).float()
        guarded = (row_state[2] < 0) | (own_max == -torch.inf)
        row_state[2] = torch.where(guarded, -combined["n"].clamp(min=1), combined["n"]).float()
        for row, name in ((3, "entropy"), (4, "sum_sq_probs")):
            if name in combined:
                row_state[row] = combined[name].float()
        ctx.save_for_backward(logits, own_targets, temperature if isinstance(temperature, Tensor) else None, row_state)
        ctx.temperature = temperature if not isinstance(temperature, Tensor) else None
        ctx.owner, ctx.out_of_range = owner, out_of_range
        ctx.softcap, ctx.num_columns, ctx.inplace, ctx.backend = softcap, num_columns, inplace_backward, backend
        ctx.set_materialize_grads(False)
        fields: list[Tensor | None] = []
        for name in FIELDS:
            if name not in outputs:
                fields.append(None)
                continue
            value = combined[name].float()
            value = value.where(active if value.ndim == 1 else active[:, None], 0)
            fields.append(value.view(targets.shape + value.shape[1:]))
        ctx.mark_non_differentiable(*(field for field in fields[-1:] if field is not None))
        return tuple(fields)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        logits, targets, temperature, row_state = ctx.saved_tensors
        named = zip(FIELDS[:-1], grads[:-1], strict=True)
        upstream = {name: grad.contiguous().view(-1) for name, grad in named if grad is not None}
        if "logprob" in upstream:
            # -p_j on every rank, 1[j=y] on the owner's: elsewhere the gradient of logprob is that of -logsumexp.
            g_y = upstream["logprob"].masked_fill(ctx.out_of_range, torch.nan)
            upstream["logprob"] = g_y * ctx.owner
            upstream["logsumexp"] = upstream.get("logsumexp", 0) - g_y * ~ctx.owner
        grad_logits = logits if ctx.inplace else torch.empty_like(logits, memory_format=torch.contiguous_format)
        if ctx.num_columns == 0:
            grad_logits.zero_()
        else:
            ctx.backend.backward(
                grad_logits,
                upstream,
                logits,
                targets,
                ctx.temperature if temperature is None else temperature,
                ctx.softcap,
                ctx.num_columns,
                row_state,
            )
        if ctx.inplace:
            torch.autograd.graph.increment_version(logits)
        return grad_logits, *(None,) * 8


# What a rank shares about each row of its slice.
_ROWS = ("m", "log_s", "n", "logprob", "owner", "entropy", "self_certainty", "sum_sq_probs", "top_1", "top_2")


def _slice_numbers(
    backend: ModuleType,
    logits: Tensor,
    targets: Tensor,
    temperature: float | Tensor,
    softcap: float,
    num_columns: int,
    outputs: Sequence[str],
    owner: Tensor,
) -> tuple[Tensor, Tensor]:
    """This rank's rows of `_ROWS`, float64, and the row state of its backend."""
    own = torch.zeros(len(_ROWS), targets.numel(), dtype=torch.float64, device=logits.device)
    own[0] = -torch.inf  # the maximum of no columns
    if num_columns == 0:
        return own, torch.zeros(STATE_ROWS, targets.numel(), dtype=torch.float32, device=logits.device)
    fields, row_state = backend.forward(logits, targets, temperature, softcap, num_columns, outputs)
    own[0], own[1], own[2] = backend.row_maximum(row_state, temperature), row_state[1], row_state[2].abs()
    own[4] = owner
    for name in set(outputs) - {"logsumexp", "top_probs"}:
        own[_ROWS.index(name)] = fields[name]
    if "top_probs" in outputs:
        own[-2:] = fields["top_probs"].T
    return own, row_state


def _combine(parts: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
    """The fields of the whole rows from the parts (ranks, rows of `_ROWS`, N), in float64.

    `n` and `logsumexp` are always there: the backward needs them.
    """
    m, log_s, n, logprob, owner, entropy, self_certainty, sum_sq_probs, *top = parts.unbind(1)
    empty = m == -torch.inf  # a slice without support, whose own statistics are NaN
    n = n.masked_fill(empty, 0)
    total = n.sum(0)
    largest = m.amax(0)
    log_mass = (m - largest + log_s).masked_fill(empty, -torch.inf)
    log_total = log_mass.logsumexp(0)
    log_total = log_total + 0 * log_total  # NaN where no slice has support
    log_pi = log_mass - log_total
    pi = log_pi.exp()

    combined = {"n": total, "logsumexp": largest + log_total}
    if "logprob" in outputs:
        on_owner = (logprob + log_pi).masked_fill(empty & ~log_total.isnan(), -torch.inf)
        combined["logprob"] = on_owner.where(owner.bool(), 0).sum(0) + 0 * log_total
    if "entropy" in outputs:
        combined["entropy"] = (pi * (entropy - log_pi)).masked_fill(empty, 0).sum(0) + 0 * log_total
    if "self_certainty" in outputs:
        surplus = (n / total * (self_certainty + n.log() - log_pi)).masked_fill(empty, 0)
        combined["self_certainty"] = surplus.sum(0) - total.log() + 0 * log_total
    if "sum_sq_probs" in outputs:
        combined["sum_sq_probs"] = (pi.square() * sum_sq_probs).masked_fill(empty, 0).sum(0) + 0 * log_total
    if "top_probs" in outputs:
        candidates = torch.cat([(pi * probs).masked_fill(empty, 0) for probs in top])
        combined["top_probs"] = candidates.topk(2, dim=0).values.T + (0 * log_total)[:, None]
    return combined


def _all_gather(own: Tensor, group: dist.ProcessGroup) -> Tensor:
    gathered = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(gathered, own, group=group)
    return torch.stack(gathered)
