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

import torch
import torch.distributed as dist
from torch import Tensor

from rlif_kernels.backends.sharded.slices import INVALID, backward_slice, readable_targets, slice_targets
from rlif_kernels.reference import check_targets, check_temperatures
from rlif_kernels.stats import IGNORE_INDEX, STATE_ROWS


def own_slice(
    targets: Tensor,
    temperature: float | Tensor,
    num_columns: int,
    vocab_size: int | None,
    group: dist.ProcessGroup,
) -> tuple[Tensor, int, int]:
    """What of the whole rows falls to this rank, which holds `num_columns` of their columns.

    Returns:
        targets as `vocab_slices.slice_targets` gives them, the number of this rank's columns within `vocab_size`, and
        the number of columns that the largest slice has.
    """
    if targets.device.type == "cpu":
        check_temperatures(temperature, targets != IGNORE_INDEX)  # here on every rank alike, so that none waits
    sizes = _all_gather(torch.tensor([num_columns], device=targets.device), group)[:, 0].tolist()
    total, offset = sum(sizes), sum(sizes[: dist.get_rank(group)])
    if vocab_size is not None:
        if not 1 <= vocab_size <= total:
            raise ValueError(f"vocab_size is {vocab_size}; expected 1 to {total}, the columns of all slices")
        num_columns = min(max(vocab_size - offset, 0), num_columns)
        total = vocab_size
    if targets.device.type == "cpu":
        check_targets(targets, targets != IGNORE_INDEX, total)
    return slice_targets(targets, offset, num_columns, total), num_columns, max(sizes)


class VocabParallel:
    """A backend for rows of which each rank holds a slice: another backend for the slice, and one exchange per forward.

    Targets are those of `own_slice`. The row state is that of the whole rows, relative to the slice's own maximum, so
    that the other backend's backward continues from it.
    """

    def __init__(self, backend: ModuleType, group: dist.ProcessGroup) -> None:
        self.backend, self.group = backend, group

    def forward(
        self,
        logits: Tensor,
        targets: Tensor,
        temperature: float | Tensor,
        softcap: float,
        num_columns: int,
        outputs: Sequence[str],
    ) -> tuple[dict[str, Tensor], Tensor]:
        flat = targets.view(-1)
        active, owner = flat != IGNORE_INDEX, flat >= 0
        readable = readable_targets(targets)
        own, row_state = _slice_numbers(
            self.backend, logits, readable, temperature, softcap, num_columns, outputs, owner
        )
        combined = _combine(_all_gather(own, self.group), outputs)
        if "logprob" in combined:
            combined["logprob"] = combined["logprob"].masked_fill(flat == INVALID, torch.nan)

        own_max = own[_ROWS.index("m")]
        row_state[1] = (combined["logsumexp"] - own_max).float()
        guarded = (row_state[2] < 0) | (own_max == -torch.inf)
        row_state[2] = torch.where(guarded, -combined["n"].clamp(min=1), combined["n"]).float()
        for row, name in ((3, "entropy"), (4, "sum_sq_probs"), (5, "complement")):
            if name in combined:
                row_state[row] = combined[name].float()
        fields = {}
        for name in outputs:
            value = combined[name].float()
            fields[name] = value.where(active if value.ndim == 1 else active[:, None], 0)
        return fields, row_state

    def backward(
        self,
        grad_logits: Tensor,
        grads: dict[str, Tensor],
        logits: Tensor,
        targets: Tensor,
        temperature: float | Tensor,
        softcap: float,
        num_columns: int,
        row_state: Tensor,
    ) -> None:
        backward_slice(self.backend, grad_logits, grads, logits, targets, temperature, softcap, num_columns, row_state)

    def sum_over_slices(self, value: Tensor) -> Tensor:
        """Add up, in place, what each rank's columns contribute: the gradient of hidden states that all ranks share."""
        dist.all_reduce(value, group=self.group)
        return value


# What a rank shares about each row of its slice.
_ROWS = (
    "m",
    "log_s",
    "n",
    "logprob",
    "owner",
    "entropy",
    "self_certainty",
    "sum_sq_probs",
    "complement",
    "top_1",
    "top_2",
)


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
    own[_ROWS.index("complement")] = row_state[5]
    for name in set(outputs) - {"logsumexp", "top_probs"}:
        own[_ROWS.index(name)] = fields[name]
    if "top_probs" in outputs:
        own[-2:] = fields["top_probs"].T
    return own, row_state


def _combine(parts: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
    """The fields of the whole rows from the parts (ranks, rows of `_ROWS`, N), in float64.

    `n` and `logsumexp` are always there: the backward needs them.
    """
    m, log_s, n, logprob, owner, entropy, self_certainty, sum_sq_probs, complement, *top = parts.unbind(1)
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
        # 1 - p_y: what fell into other slices, and in the owner's to other columns.
        combined["complement"] = pi.where(~owner.bool(), pi * complement).masked_fill(empty, 0).sum(0)
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
