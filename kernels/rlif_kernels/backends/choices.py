"""Rows with several targets each: the log-probabilities of K ids from one read of the logits.

The read is that of rows with one target, the likeliest of the K, so that no backend needs to know. The
log-probabilities are those of the K logits themselves, relative to what the read has found. In the backward a backend
writes the gradient of all columns, where the targets take part by the sum G of their upstream gradients alone; then the
columns that are targets are written again,

    dx_j = p_j (c_rest + ...) - c_1 + (1 - p_j) S_j - p_j (G - S_j),

S_j the sum over the targets that are column j, which may be several. Nothing there cancels where p_j is nearly 1.

The k largest columns are targets too, as soon as somebody needs the gradient of their log-probabilities.

Slices of a row, of processes or of tiles, have those targets that lie in them; the others are coded as in
`sharded.slices`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rlif_kernels.backends import LocalBackend, order
from rlif_kernels.backends.order import Chosen
from rlif_kernels.backends.sharded import slices
from rlif_kernels.backends.sharded.slices import NOT_OWNED, readable
from rlif_kernels.checks import check_values
from rlif_kernels.functional import STATISTICS
from rlif_kernels.rows import Rows, RowState, row_coefficients
from rlif_kernels.stats import IGNORE_INDEX, NO_COLUMN

if TYPE_CHECKING:
    from rlif_kernels.backends.sharded.parallel import VocabParallel

# Below it p is 0, and what is multiplied with p must not overflow.
LOWEST = -1e15


def forward(
    local: LocalBackend, ranks: "VocabParallel | None", logits: Tensor, rows: Rows, outputs: Sequence[str]
) -> tuple[dict[str, Tensor], Tensor]:
    """`Backend.forward`, and what `order` makes of it: `outputs` are of `functional.OP_FIELDS`.

    Returns:
        The fields; `logprob` and `target_rank` are (N, K) where rows have K targets each. With `top_logprobs` also
        `top_columns`, (N, k) int64: the columns as targets of this slice, for a backward. And the row state.
    """
    above = order.logits_of_targets(logits, rows, ranks) if "target_rank" in outputs else None
    if rows.choices is None:
        one = rows if above is None else rows._replace(rank_above=above[:, 0].contiguous())
        fields, row_state = _one_target(local, ranks, logits, one, outputs)
    else:
        fields, row_state = _several_targets(local, ranks, logits, rows, outputs)
        if above is not None:
            undefined = RowState(*row_state).log_s.isnan()[:, None]
            rank = order.count_larger(logits, rows, above, ranks).masked_fill(undefined, NO_COLUMN)
            fields["target_rank"] = rank.masked_fill(rows.flat_targets == IGNORE_INDEX, 0)
    if above is not None:
        rank = fields["target_rank"]
        rank.masked_fill_(Chosen(logits, rows).invalid.view(rank.shape), NO_COLUMN)
    return fields, row_state


def _one_target(
    local: LocalBackend, ranks: "VocabParallel | None", logits: Tensor, rows: Rows, outputs: Sequence[str]
) -> tuple[dict[str, Tensor], Tensor]:
    if ranks:
        return ranks.forward(logits, rows, outputs)
    fields, row_state = local.forward(logits, rows, [name for name in outputs if name in STATISTICS])
    if "top_logprobs" in outputs:
        columns = fields["top_columns"] = order.top_columns(fields["top_ids"])
        chosen = order.Chosen(logits, rows, columns)
        fields["top_logprobs"] = order.shown(order.top_logprobs(local, chosen, row_state), rows)
    return fields, row_state


def _several_targets(
    local: LocalBackend, ranks: "VocabParallel | None", logits: Tensor, rows: Rows, outputs: Sequence[str]
) -> tuple[dict[str, Tensor], Tensor]:
    if logits.device.type == "cpu" and ranks is None:
        check_values(rows)
    outputs = [name for name in outputs if name != "target_rank"]
    chosen = _Targets(logits, rows)
    likeliest = chosen.capped.nan_to_num(nan=torch.inf).argmax(-1, keepdim=True)
    target = chosen.ids.gather(-1, likeliest)[:, 0].where(chosen.owned.any(-1), NOT_OWNED)
    target = target.where(rows.targets.view(-1) != IGNORE_INDEX, IGNORE_INDEX)
    one = rows._replace(targets=target.view(rows.targets.shape), choices=None)
    fields, row_state = _one_target(local, ranks, logits, one if ranks else readable(one), outputs)
    if "logprob" in fields:
        # From the likeliest of all, whose log-probability has been measured: a softcap or temperature that the backend
        # rounds is then rounded alike in both.
        best = chosen.capped.gather(-1, likeliest)
        if ranks:
            best = ranks.of_all_slices(best).amax(0)
        measured = fields["logprob"].double()[:, None]
        logprob = measured + (chosen.capped - best) / chosen.temperature
        logprob = logprob.where(chosen.capped != -torch.inf, -torch.inf).where(chosen.owned, 0)
        if ranks:
            ranks.sum_over_slices(logprob)
        logprob = logprob + 0 * RowState(*row_state).log_s[:, None]  # NaN where the row is no distribution
        fields["logprob"] = logprob.masked_fill(chosen.invalid, torch.nan).where(chosen.counts, 0).float()
    return fields, row_state


def backward_slice(
    local: LocalBackend, grad_logits: Tensor, grads: dict[str, Tensor], logits: Tensor, rows: Rows, row_state: Tensor
) -> None:
    """`slices.backward_slice`; the upstream gradient of `logprob` is (N, K) where rows have K targets each."""
    if rows.choices is None or rows.num_columns == 0:
        slices.backward_slice(local, grad_logits, grads, logits, rows, row_state)
        return
    others = {name: grad for name, grad in grads.items() if name != "logprob"}
    if "logprob" not in grads:
        local.backward(grad_logits, others, logits, readable(rows), row_state)
        return
    chosen = _Targets(logits, rows)  # in place the backend overwrites the logits
    g = grads["logprob"].where(chosen.counts, 0).masked_fill(chosen.invalid, torch.nan)
    total = g.sum(-1)
    all_columns = others | {"logsumexp": others["logsumexp"] - total if "logsumexp" in others else -total}
    local.backward(grad_logits, all_columns, logits, readable(rows), row_state)

    values = chosen.gradient(local, others, g.double(), row_state)
    # A target that is not here stands for the first that is; in a row without any the first column is left as it is.
    first = chosen.owned.float().argmax(-1, keepdim=True)
    index = chosen.ids.where(chosen.owned, chosen.ids.gather(-1, first))
    values = values.where(chosen.owned, values.gather(-1, first)).to(grad_logits.dtype)
    shape = (*logits.shape[:-1], index.shape[-1])
    index = index.where(chosen.owned.any(-1, keepdim=True), 0).view(shape)
    values = values.view(shape).where(chosen.owned.any(-1).view(*logits.shape[:-1], 1), grad_logits.gather(-1, index))
    grad_logits.scatter_(-1, index, values)


class _Targets(Chosen):
    """The targets, and their gradient."""

    def logp(self, local: LocalBackend, row_state: Tensor) -> Tensor:
        """log p, float64, of those that the slice has."""
        return local.distances(self.capped, row_state, self.rows) - RowState(*row_state).log_s[:, None]

    def gradient(self, local: LocalBackend, others: dict[str, Tensor], g: Tensor, row_state: Tensor) -> Tensor:
        """dx of those that the slice has, float64, from the gradients g of their log-probabilities and of `others`."""
        state = RowState(*(part.double()[:, None] for part in row_state))
        logp = self.logp(local, row_state).clamp(min=LOWEST)
        p, u = logp.exp(), logp + state.entropy
        c = {name: value.double()[:, None] for name, value in row_coefficients(others, row_state, self.rows).items()}
        polynomial = c["rest"] + c.get("plogp", 0) * logp + c.get("pp", 0) * p + c.get("uu", 0) * u * (u + 2)
        own = torch.zeros_like(g)
        for k in range(g.shape[-1]):  # one after the other: (N, K, K) numbers at once could be more than the logits
            same = (self.ids == self.ids[:, k : k + 1]) & self.owned[:, k : k + 1]
            own += g[:, k : k + 1].where(same, 0)
        # One column alone can have most of the probability. The state knows of it if it is the target, or the likeliest
        # of several; one of the k largest that is not has the others' share from log s.
        complement = torch.where((p > 0.5) & (state.complement < 0.5), state.complement, -torch.expm1(logp))
        value = p * polynomial - c.get("1", 0)
        value = value + (own * complement - (g.sum(-1, keepdim=True) - own) * p) / self.temperature
        if self.rows.softcap:
            value = value * (1 - (self.capped / self.rows.softcap).square())
        return value.masked_fill(self.x == -torch.inf, 0)
