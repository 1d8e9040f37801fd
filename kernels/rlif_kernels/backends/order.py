"""What the order of a row's columns says: the target's rank, and log p of the k largest.

A backend finds the columns themselves, `argmax` and `top_ids`, and counts for `target_rank`, all by the logits as they
were given. What is here needs no more than a few logits of each row.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rlif_kernels.backends.sharded.slices import NOT_OWNED
from rlif_kernels.backends.torch import row_blocks
from rlif_kernels.rows import Rows, RowState
from rlif_kernels.stats import IGNORE_INDEX, NO_COLUMN

if TYPE_CHECKING:
    from rlif_kernels.backends import LocalBackend
    from rlif_kernels.backends.sharded.parallel import VocabParallel


class Chosen:
    """Some columns of each row of a slice, (N, K) each: the targets, or those that are given."""

    def __init__(self, logits: Tensor, rows: Rows, ids: Tensor | None = None) -> None:
        """`ids` (N, K) are columns of the slice, or below 0."""
        self.rows = rows
        choices = rows.flat_targets if ids is None else ids
        self.counts = choices != IGNORE_INDEX
        self.owned = (choices >= 0) & (choices < rows.num_columns)
        self.invalid = self.counts & ~self.owned & (choices != NOT_OWNED)
        self.ids = choices.where(self.owned, 0)
        self.temperature = rows.flat_temperature
        if isinstance(self.temperature, Tensor):
            self.temperature = self.temperature.double()[:, None]
        self.x = torch.full(choices.shape, -torch.inf, dtype=torch.float64, device=logits.device)
        if rows.num_columns:
            x = logits.gather(-1, self.ids.view(*logits.shape[:-1], choices.shape[-1])).view(choices.shape)
            self.x = x.double().where(self.owned, -torch.inf)
        self.capped = capped(self.x, rows.softcap)


def capped(x: Tensor, softcap: float) -> Tensor:
    """The logits after a softcap; 0 is none."""
    if not softcap:
        return x
    # tanh would bring an infinity back into the finite range, where the row must know of it.
    return torch.where(x.isinf(), x, softcap * torch.tanh(x / softcap))


def top_logprobs(local: "LocalBackend", chosen: Chosen, row_state: Tensor) -> Tensor:
    """log p, (N, k) float64, of the k largest columns of a slice, by what the backend's sums are relative to.

    That is the largest z as the backend has rounded it: of large logits another number than the logit itself.
    """
    distance = local.distances(chosen.capped, row_state, chosen.rows).where(chosen.x != -torch.inf, -torch.inf)
    # In a row that is no distribution log s is NaN, and so is all that follows from it.
    return (distance - RowState(*row_state).log_s.double()[:, None]).clamp(max=0)


def shown(logprob: Tensor, rows: Rows) -> Tensor:
    """The same as a field: float32, and 0 in masked rows."""
    return logprob.where(rows.targets.view(-1, 1) != IGNORE_INDEX, 0).float()


def top_columns(top_ids: Tensor) -> Tensor:
    """The k largest columns as targets: IGNORE_INDEX where there is none."""
    return top_ids.masked_fill(top_ids == NO_COLUMN, IGNORE_INDEX)


def logits_of_targets(logits: Tensor, rows: Rows, ranks: "VocabParallel | None") -> Tensor:
    """The logit of each target, (N, K) float32, wherever its column is."""
    x = Chosen(logits, rows).x
    if ranks:
        x = ranks.of_all_slices(x).amax(0)
    return x.float()


def count_larger(logits: Tensor, rows: Rows, above: Tensor, ranks: "VocabParallel | None") -> Tensor:
    """How many logits of each row are larger than each of `above`, (N, K) int64, for rows with K targets.

    A further look at the logits for each of the K, block by block; a backend counts as it reads, but for one target.
    """
    counts = torch.zeros(above.shape, dtype=torch.int64, device=above.device)
    active = rows.targets.view(-1) != IGNORE_INDEX
    if rows.num_columns:
        for (matrix,), local, index in row_blocks([logits], active, rows.num_columns):
            x = matrix[local, : rows.num_columns]
            larger = [(x > each[:, None]).sum(-1) for each in above[index].unbind(-1)]
            counts[index] = torch.stack(larger, -1)
    if ranks:
        ranks.sum_over_slices(counts)
    return counts
