"""`token_stats` where each rank of a process group holds a slice of the vocabulary.

Each rank computes the statistics of its own slice with the ordinary backend; what it adds to the whole is a handful of
numbers per row (`functional` says which), which one all-gather shares. The slices then combine by the chain rule: with
lse_r the log-sum-exp of slice r, n_r its columns, H_r its entropy, and π_r = exp(lse_r - lse) the probability of
falling into it,

    lse = log sum_r exp lse_r                       entropy = sum_r π_r (H_r - log π_r)
    logprob = logprob_owner + log π_owner           sum p² = sum_r π_r² (sum p²)_r
    self_certainty = sum_r n_r/n (self_certainty_r + log n_r - log π_r) - log n
    varentropy = sum_r π_r (varentropy_r + (H_r - log π_r - entropy)²)
    target_rank = sum_r target_rank_r, where all count what is larger than the logit that one of them has

and the largest columns of all are among the largest of each, whose ids and logits they tell.

The backward needs no exchange: the gradient of a slice depends on the others through these numbers alone. The few
numbers per row are combined in float64, where lse_r of shifted logits loses nothing.
"""

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from rlif_kernels.backends import LocalBackend, order
from rlif_kernels.backends.sharded.slices import INVALID, NOT_OWNED, backward_slice, readable, slice_targets
from rlif_kernels.checks import check_targets, check_temperatures
from rlif_kernels.functional import STATISTICS, dtype_of
from rlif_kernels.rows import STATE_ROWS, Rows, RowState
from rlif_kernels.stats import IGNORE_INDEX, NO_COLUMN


def own_slice(
    targets: Tensor,
    temperature: float | Tensor,
    num_columns: int,
    vocab_size: int | None,
    group: dist.ProcessGroup,
) -> tuple[Tensor, int, int]:
    """What of the whole rows falls to this rank, which holds `num_columns` of their columns.

    Returns:
        targets as `slices.slice_targets` gives them, the number of this rank's columns within `vocab_size`, and
        the number of columns that the largest slice has.
    """
    if targets.device.type == "cpu":
        active = targets != IGNORE_INDEX
        if isinstance(temperature, Tensor) and temperature.ndim < targets.ndim:
            active = active.any(-1)
        check_temperatures(temperature, active)  # on every rank, so that none waits for another
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
    """A backend for sharded rows: another backend computes this rank's slice, and a forward takes one exchange.

    Targets are those of `own_slice`. The row state is that of the whole rows, relative to the slice's own maximum, so
    that the other backend's backward continues from it.
    """

    grpo = None
    """None: a row's loss is known only after the exchange."""

    def __init__(self, backend: LocalBackend, group: dist.ProcessGroup) -> None:
        self.backend, self.group = backend, group

    def forward(self, logits: Tensor, rows: Rows, outputs: Sequence[str]) -> tuple[dict[str, Tensor], Tensor]:
        """`backends.Backend.forward`, of the whole rows; `top_logprobs` and `top_columns` as in `choices.forward`."""
        flat = rows.targets.view(-1)
        active = flat != IGNORE_INDEX
        names = [name for name in outputs if name in STATISTICS]
        own, row_state = _slice_numbers(self.backend, logits, rows, names)
        combined = _combine(_all_gather(own, self.group), names, rows.top)
        if "logprob" in combined:
            combined["logprob"] = combined["logprob"].masked_fill(flat == INVALID, torch.nan)

        own_max, state = own[ALWAYS_SHARED.index("m")], RowState(*row_state)
        state.log_s.copy_(combined["logsumexp"] - own_max)
        guarded = (state.n < 0) | (own_max == -torch.inf)
        state.n.copy_(torch.where(guarded, -combined["n"].clamp(min=1), combined["n"]))
        for name in ("entropy", "sum_sq_probs", "complement", "varentropy"):
            if name in combined:
                getattr(state, name).copy_(combined[name])
        if "complement" not in combined:
            state.complement.fill_(1)  # what the slice says of its own target is not true of the row
        fields = {}
        for name in names:
            value = combined[name].to(dtype_of(name))
            fields[name] = value.where(active if value.ndim == 1 else active[:, None], 0)
        if "top_logprobs" in outputs:
            fields["top_logprobs"] = order.shown(combined["top_logprobs"], rows)
            columns = order.top_columns(fields["top_ids"])
            first = combined["first_column"][dist.get_rank(self.group)].long()
            own_columns = columns - first[:, None]
            here = (own_columns >= 0) & (own_columns < rows.num_columns)
            fields["top_columns"] = own_columns.where(here, NOT_OWNED).where(columns != IGNORE_INDEX, IGNORE_INDEX)
        return fields, row_state

    def backward(
        self, grad_logits: Tensor, grads: dict[str, Tensor], logits: Tensor, rows: Rows, row_state: Tensor
    ) -> None:
        """`backends.Backend.backward`, of this rank's slice."""
        backward_slice(self.backend, grad_logits, grads, logits, rows, row_state)

    def sum_over_slices(self, value: Tensor) -> None:
        """Add up, in place, what each rank's columns contribute: the gradient of hidden states that all ranks share."""
        dist.all_reduce(value, group=self.group)

    def of_all_slices(self, value: Tensor) -> Tensor:
        """Return what each rank brings, (ranks, ...), in their order."""
        return _all_gather(value, self.group)


# What a slice tells of each row whatever is asked for: its largest z (-inf of no columns), the logarithm of its sum of
# exponentials, and its columns in the support.
ALWAYS_SHARED = ("m", "log_s", "n")


def shared_names(outputs: Iterable[str], top: int = 0) -> tuple[str, ...]:
    """What the slices share about each row, in order: `ALWAYS_SHARED`, then what the fields need, each once.

    `owner` is 1 where the target lies in the slice, `top_1` and `top_2` are the largest probabilities, `columns` those
    of the slice; then the ids in the slice, the logits and log p in the slice of its `top` largest, the largest first.
    """
    needed = (name for field in outputs for name in STATISTICS[field].shared)
    lists = (f"{each}_{i}" for each in ("id", "x", "logp") for i in range(top))
    return tuple(dict.fromkeys((*ALWAYS_SHARED, *needed, *lists)))


def _slice_numbers(backend: LocalBackend, logits: Tensor, rows: Rows, outputs: Sequence[str]) -> tuple[Tensor, Tensor]:
    """What this rank shares, float64 (`shared_names`, N), and the row state of its backend."""
    names = shared_names(outputs, rows.top)
    shared = torch.zeros(len(names), rows.num_rows, dtype=torch.float64, device=logits.device)
    if rows.num_columns == 0:
        for number, name in zip(shared, names, strict=True):
            if name in ("m", "argmax_logit") or name.startswith(("x_", "logp_")):
                number.fill_(-torch.inf)
        return shared, torch.zeros(STATE_ROWS, rows.num_rows, dtype=torch.float32, device=logits.device)
    slice_rows = readable(rows)
    fields, row_state = backend.forward(logits, slice_rows, outputs)
    state = RowState(*row_state)
    values = state._asdict() | fields
    values |= {"m": backend.row_maximum(row_state, slice_rows), "n": state.n.abs(), "owner": rows.targets.view(-1) >= 0}
    if "top_probs" in fields:
        values |= dict(zip(("top_1", "top_2"), fields["top_probs"].unbind(1), strict=True))
    if "argmax" in fields:
        values["argmax_logit"] = order.Chosen(logits, slice_rows, fields["argmax"][:, None]).x[:, 0]
    if "target_rank" in fields:
        values["target_rank"] = fields["target_rank"].clamp(min=0)  # a slice of -inf is no distribution
    if "top_ids" in fields:
        chosen = order.Chosen(logits, slice_rows, fields["top_ids"])
        logprob = order.top_logprobs(backend, chosen, row_state)
        for each, columns in (("id", fields["top_ids"]), ("x", chosen.x), ("logp", logprob)):
            values |= {f"{each}_{i}": column for i, column in enumerate(columns.unbind(1))}
    if "columns" in names:
        values["columns"] = torch.tensor(rows.num_columns)
    for number, name in zip(shared, names, strict=True):
        number.copy_(values[name])
    return shared, row_state


def _combine(parts: Tensor, outputs: Sequence[str], top: int) -> dict[str, Tensor]:
    """The fields of the whole rows from what all ranks shared (ranks, `shared_names`, N), in float64.

    `n` and `logsumexp` are always there: the backward needs them.
    """
    every = dict(zip(shared_names(outputs, top), parts.unbind(1), strict=True))  # (ranks, N) each
    empty = every["m"] == -torch.inf  # a slice without support, whose own statistics are NaN
    n = every["n"].masked_fill(empty, 0)
    total = n.sum(0)
    largest = every["m"].amax(0)
    log_mass = (every["m"] - largest + every["log_s"]).masked_fill(empty, -torch.inf)
    log_total = log_mass.logsumexp(0)
    log_total = log_total + 0 * log_total  # NaN where no slice has support
    log_pi = log_mass - log_total
    pi = log_pi.exp()

    def sum_of(values: Tensor) -> Tensor:
        return values.masked_fill(empty, 0).sum(0) + 0 * log_total

    combined = {"n": total, "logsumexp": largest + log_total}
    if "logprob" in outputs:
        owner = every["owner"].bool()
        if len(owner) > 1:  # with several targets more than one slice may have one: the likeliest of all is the row's
            z_y = (every["logprob"] + log_pi).masked_fill(~owner, -torch.inf)
            owner = owner & (
                (owner.sum(0) <= 1) | torch.zeros_like(owner).scatter_(0, z_y.argmax(0, keepdim=True), True)
            )
        on_owner = (every["logprob"] + log_pi).masked_fill(empty & ~log_total.isnan(), -torch.inf)
        combined["logprob"] = on_owner.where(owner, 0).sum(0) + 0 * log_total
        # 1 - p_y: what fell into other slices, and in the owner's to other columns.
        combined["complement"] = pi.where(~owner, pi * every["complement"]).masked_fill(empty, 0).sum(0)
    if "entropy" in every:
        surprise = every["entropy"] - log_pi  # the mean of -log p over a slice
        combined["entropy"] = sum_of(pi * surprise)
        if "varentropy" in outputs:
            combined["varentropy"] = sum_of(pi * (every["varentropy"] + (surprise - combined["entropy"]).square()))
    if "self_certainty" in outputs:
        combined["self_certainty"] = sum_of(n / total * (every["self_certainty"] + n.log() - log_pi)) - total.log()
    if "sum_sq_probs" in outputs:
        combined["sum_sq_probs"] = sum_of(pi.square() * every["sum_sq_probs"])
    if "top_probs" in outputs:
        candidates = torch.cat([(pi * every[name]).masked_fill(empty, 0) for name in ("top_1", "top_2")])
        combined["top_probs"] = candidates.topk(2, dim=0).values.T + (0 * log_total)[:, None]
    return combined | _largest(every, log_pi, log_total, top)


def _largest(every: dict[str, Tensor], log_pi: Tensor, log_total: Tensor, top: int) -> dict[str, Tensor]:
    """What the order of the columns says of the whole rows: of equal ones the first slice's, as within a slice."""
    undefined, found = log_total.isnan(), {}
    if "target_rank" in every:
        found["target_rank"] = every["target_rank"].sum(0).masked_fill(undefined, NO_COLUMN)
    if "columns" in every:
        found["first_column"] = every["columns"].cumsum(0) - every["columns"]
    if "argmax" in every:
        which = every["argmax_logit"].argmax(0, keepdim=True)
        ids = (every["argmax"] + found["first_column"]).gather(0, which)[0]
        found["argmax"] = ids.masked_fill(undefined, NO_COLUMN)
    if top:
        # (ranks * top, N): slice after slice, within each the largest first.
        ids, x, logp = (torch.stack([every[f"{each}_{i}"] for i in range(top)], 1) for each in ("id", "x", "logp"))
        ids, logp = ids + found["first_column"][:, None], logp + log_pi[:, None]
        x, index = x.flatten(0, 1).sort(dim=0, descending=True, stable=True)
        ids = ids.flatten(0, 1).gather(0, index).masked_fill((x == -torch.inf) | undefined, NO_COLUMN)
        # A slice without support has NaN, and no column among those that count.
        logp = logp.flatten(0, 1).gather(0, index).masked_fill((x == -torch.inf) & ~undefined, -torch.inf)
        found |= {"top_ids": ids[:top].T, "top_logprobs": logp[:top].T}
    return found


def _all_gather(own: Tensor, group: dist.ProcessGroup) -> Tensor:
    gathered = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(gathered, own, group=group)
    return torch.stack(gathered)
