"""The gradient of a slice of the vocabulary, given what its whole rows came to.

A row's statistics depend on all of its columns; once they are known, the gradient of any slice of the columns follows
from them and from the slice's own logits alone. So the gradient can be computed tile by tile (`head`) and rank
by rank (`parallel`), with the ordinary backends: of logprob = z_y - lse, only the slice that holds y gets the
gradient of z_y, every slice gets that of -lse.

Within a slice, a target is the column in it, or IGNORE_INDEX for a row to skip, or one of the two codes below.
"""

import torch
from torch import Tensor

from rlif_kernels.backends import Backend
from rlif_kernels.rows import Rows
from rlif_kernels.stats import IGNORE_INDEX

NOT_OWNED = -101  # the target's column lies in another slice
INVALID = -102  # the target lies in none: the row's log-probability and gradient are NaN


def slice_targets(targets: Tensor, first: int, size: int, total: int | None = None) -> Tensor:
    """Targets of rows as targets within the columns ``[first, first + size)``; codes stay.

    With `total`, the number of columns of all slices, whatever lies outside becomes INVALID.
    """
    shifted = targets - first
    own = shifted.where((shifted >= 0) & (shifted < size), NOT_OWNED)
    coded = (targets == IGNORE_INDEX) | (targets == NOT_OWNED) | (targets == INVALID)
    if total is not None:
        coded = targets == IGNORE_INDEX
        own = own.masked_fill((targets < 0) | (targets >= total), INVALID)
    return torch.where(coded, targets, own)


def slice_rows(rows: Rows, first: int, size: int, total: int | None = None) -> Rows:
    """The rows within a slice, with the targets that `slice_targets` gives them."""
    choices = None if rows.choices is None else slice_targets(rows.choices, first, size, total)
    targets = slice_targets(rows.targets, first, size, total)
    return rows._replace(targets=targets, num_columns=size, choices=choices)


def readable(rows: Rows) -> Rows:
    """The rows of a slice as an ordinary backend takes them: a column that exists stands for the codes."""
    coded = (rows.targets == NOT_OWNED) | (rows.targets == INVALID)
    return rows._replace(targets=rows.targets.masked_fill(coded, 0), choices=None)


def backward_slice(
    backend: Backend,
    grad_logits: Tensor,
    grads: dict[str, Tensor],
    logits: Tensor,
    rows: Rows,
    row_state: Tensor,
) -> None:
    """`backend.backward` of a slice.

    The targets are those of `slice_targets`, and the columns the slice's; the rest belongs to the whole rows.
    """
    if rows.num_columns == 0:
        grad_logits.zero_()
        return
    flat = rows.targets.view(-1)
    owned = flat >= 0
    if "logprob" in grads:
        g_y = grads["logprob"].masked_fill(flat == INVALID, torch.nan)
        g_lse = g_y.masked_fill(owned, 0)
        grads = grads | {
            "logprob": g_y.masked_fill(~owned, 0),
            "logsumexp": grads["logsumexp"] - g_lse if "logsumexp" in grads else -g_lse,
        }
    backend.backward(grad_logits, grads, logits, readable(rows), row_state)
