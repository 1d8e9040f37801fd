"""Forward-mode derivatives of the fields of a head's logits: `backends.tangents` of each tile and of its tangent."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rlif_kernels.backends.tangents import field_tangents
from rlif_kernels.functional import DIFFERENTIABLE
from rlif_kernels.head.head import Head
from rlif_kernels.head.products import add_product
from rlif_kernels.head.tiles import HiddenRows, tile_sizes, tiles
from rlif_kernels.rows import zero_results


def head_tangents(
    head: Head,
    taken: HiddenRows,
    outputs: Sequence[str],
    d_hidden: Tensor | None,
    d_weight: Tensor | None,
    d_bias: Tensor | None,
    top_columns: Tensor | None = None,
) -> dict[str, Tensor]:
    """The tangents of the fields, flat, of all rows; 0 in those not taken.

    Args:
        d_hidden, d_weight, d_bias: the tangents of hidden states, weight and bias; None where they stay.
        top_columns: (N, k) of all rows, where `top_logprobs` is asked for.
    """
    # A tile of the logits and one of their tangent share the budget.
    sizes = tile_sizes(taken.count, head.row_bytes(taken), max(1, head.tile_bytes // 2))
    columns, rows = slice(head.rows.num_columns), head.rows.take(taken.index)
    moved = None if d_hidden is None else HiddenRows(d_hidden, taken.rows)
    fields, _ = zero_results(head.weight, head.rows, [name for name in outputs if name in DIFFERENTIABLE])
    if top_columns is not None:
        fields["top_logprobs"] = head.weight.new_zeros(top_columns.shape, dtype=torch.float32)
    buffer, tangent_buffer = (head.new_buffer(max(sizes, default=0) * columns.stop) for _ in range(2))
    for tile in tiles(sizes):
        hidden = taken.take(tile)
        logits = head.logits(hidden, columns, buffer)
        tangent = tangent_buffer[: logits.numel()].view(logits.shape).zero_()
        if moved is not None:
            _add(tangent, moved.take(tile), head.weight[columns].T)
        if d_weight is not None:
            _add(tangent, hidden, d_weight[columns].T)
        if d_bias is not None:
            tangent += d_bias[columns]
        numbers = taken.numbers(tile)
        top = None if top_columns is None else top_columns[numbers]
        for name, value in field_tangents(tangent, logits, rows.take(tile), outputs, head.ranks, top).items():
            fields[name][numbers] = value
    return fields


def _add(total: Tensor, left: Tensor, right: Tensor) -> None:
    if total.dtype == torch.float32:
        add_product(total, left, right)
    else:
        total.addmm_(left, right)
