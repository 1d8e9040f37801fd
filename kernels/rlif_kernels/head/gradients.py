"""The gradients of hidden states, weight and bias from tiles of the gradient of the logits.

A backward that knows the statistics of the rows walks over tiles of columns, all rows of them. Then the gradient of the
weight needs no sum over tiles: each of its rows is one product, rounded once. Only the gradient of the hidden states is
summed, which is much smaller. A loss that computes its gradient in the forward walks over tiles of whole rows instead.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from rlif_kernels.backends import choices
from rlif_kernels.backends.sharded.slices import slice_rows
from rlif_kernels.head.head import Head
from rlif_kernels.head.products import add_product, multiply, multiply_in_float32, narrow_
from rlif_kernels.head.tiles import HiddenRows, tile_sizes, tiles

# Of hidden states, weight and bias; None where nobody needs one.
Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


def backward(
    head: Head,
    taken: HiddenRows,
    grads: dict[str, Tensor],
    row_state: Tensor,
    needs: Sequence[bool],
    kept: Tensor | None = None,
) -> Gradients:
    """The gradients of hidden states, weight and bias; None for those that `needs` leaves out.

    Args:
        grads, row_state: of all rows.
        kept: the logits of the rows taken, which the gradient overwrites; None to compute them again.
    """
    gradients = HeadGradients(head, taken, needs, taken.count)
    num_columns, rows = head.rows.num_columns, head.rows.take(taken.index)
    if head.ranks is None:  # else `own_slice` did it
        rows = slice_rows(rows, 0, num_columns, num_columns)
    state, grads = row_state[:, taken.index], {name: grad[taken.index] for name, grad in grads.items()}
    if kept is not None or not taken.count:
        sizes = [num_columns] if taken.count else []
    else:
        # At most half of the budget: a tile of a few columns would be slow.
        beside = min(gradients.bytes_beside_a_tile(), head.tile_bytes // 2)
        sizes = tile_sizes(num_columns, taken.count * head.logits_dtype.itemsize, head.tile_bytes - beside)
    buffer = head.new_buffer(taken.count * max(sizes, default=0)) if kept is None else kept.view(-1)
    hidden = taken.take(slice(0, taken.count))
    for columns in tiles(sizes):
        size = columns.stop - columns.start
        if kept is None:
            logits = head.logits(hidden, columns, buffer)
        else:
            logits = buffer[: taken.count * num_columns].view(taken.count, num_columns)
        own = slice_rows(rows, columns.start, size)
        # A tile is a slice of the vocabulary, a rank's tile too: neither needs an exchange.
        choices.backward_slice(head.backend, logits, grads, logits, own, state)
        gradients.add_columns(columns, logits, hidden, last=columns.stop == num_columns)
    return gradients.finish()


class HeadGradients:
    """The gradients of hidden states, weight and bias, gathered from tiles of the gradient of the logits.

    Half-precision gradients that several tiles add to are summed in float32 and rounded once. The gradient of float32
    logits of a half-precision head is rounded to the head's dtype before it is multiplied, as autograd does behind
    ``logits.float()``: products in float32 would take several times as long, and the error of a rounded element is not
    that of a rounded logit, which moves the whole row.
    """

    def __init__(self, head: Head, taken: HiddenRows, needs: Sequence[bool], num_learning: int) -> None:
        """The first `num_learning` of the rows taken have a gradient."""
        self.head, self.taken, self.num_learning = head, taken, num_learning
        weight, bias, num_columns = head.weight, head.bias, head.rows.num_columns
        needs_hidden, needs_weight, needs_bias = needs
        self.hidden = torch.zeros_like(taken.hidden, memory_format=torch.contiguous_format) if needs_hidden else None
        self.weight_sum: Tensor | None = None
        self.hidden_sum: Tensor | None = None
        self.bias_sum: Tensor | None = None
        self.d_weight = torch.empty_like(weight, memory_format=torch.contiguous_format) if needs_weight else None
        if self.d_weight is not None and (num_columns < len(weight) or num_learning == 0):
            self.d_weight[0 if num_learning == 0 else num_columns :] = 0
        if needs_bias and bias is not None:
            self.bias_sum = weight.new_zeros(len(weight), dtype=torch.float32)

    def bytes_beside_a_tile(self) -> int:
        """Bytes that `add_columns` needs with a tile: hidden states of gathered rows, and the sum of their gradient."""
        elements = self.taken.count * self.taken.hidden.shape[-1]
        gathered = elements * self.head.weight.element_size() if self.taken.gathered else 0
        return gathered + (elements * 4 if self.hidden is not None and not self._sums_in_place else 0)

    @property
    def _sums_in_place(self) -> bool:
        return not self.taken.gathered and self.head.weight.dtype == torch.float32

    def add_columns(self, columns: slice, d_logits: Tensor, hidden: Tensor, last: bool) -> None:
        """Take the gradient of some columns' logits, of all rows (`hidden`); it may be destroyed."""
        if self.bias_sum is not None:
            self.bias_sum[columns] = d_logits.sum(0, dtype=torch.float32)
        d_logits = self._as_factor(d_logits)
        if self.d_weight is not None:
            multiply(d_logits.T, hidden, out=self.d_weight[columns])
        if self.hidden is not None:
            weight = self.head.weight[columns]
            if self._sums_in_place:  # it starts as zeros
                add_product(self.hidden.view(-1, weight.shape[1]), d_logits, weight)
            elif self.hidden_sum is None and last:  # the only tile
                self._put_hidden(slice(0, len(hidden)), d_logits, weight)
            else:
                self.hidden_sum = _added(self.hidden_sum, d_logits, weight)
                if last:
                    matrix = self.hidden.view(-1, weight.shape[1])
                    if self.taken.gathered:
                        matrix[self.taken.index] = self.hidden_sum.to(matrix.dtype)
                    else:
                        matrix.copy_(self.hidden_sum)

    def add_rows(self, tile: slice, d_logits: Tensor, hidden: Tensor) -> None:
        """Take the gradient of some rows' logits, all columns; it may be destroyed."""
        if self.bias_sum is not None:
            self.bias_sum[: self.head.rows.num_columns] += d_logits.sum(0, dtype=torch.float32)
        d_logits = self._as_factor(d_logits)
        if self.hidden is not None:
            self._put_hidden(tile, d_logits, self.head.weight[: self.head.rows.num_columns])
        if self.d_weight is not None:
            only = tile.start == 0 and tile.stop == self.num_learning
            own = self.d_weight[: self.head.rows.num_columns]
            if only or (self.d_weight.dtype == torch.float32 and tile.start == 0):
                multiply(d_logits.T, hidden, out=own)
            elif self.d_weight.dtype == torch.float32:
                add_product(own, d_logits.T, hidden)
            else:
                self.weight_sum = _added(self.weight_sum, d_logits.T, hidden)
                if tile.stop == self.num_learning:
                    own.copy_(self.weight_sum)
                    self.weight_sum = None

    def finish(self) -> Gradients:
        """The gradients, complete once every tile was added; None where nobody needs one."""
        if self.hidden is not None and self.head.ranks is not None:
            self.head.ranks.sum_over_slices(self.hidden)
        bias = None if self.bias_sum is None else self.bias_sum.to(self.head.weight.dtype)
        return self.hidden, self.d_weight, bias

    def _as_factor(self, d_logits: Tensor) -> Tensor:
        dtype = self.head.weight.dtype
        return d_logits if d_logits.dtype == dtype else narrow_(d_logits, dtype)

    def _put_hidden(self, tile: slice, d_logits: Tensor, weight: Tensor) -> None:
        """Write the gradient of some rows, complete in this one product."""
        assert self.hidden is not None
        matrix = self.hidden.view(-1, self.hidden.shape[-1])
        if self.taken.gathered:
            matrix[self.taken.numbers(tile)] = multiply(
                d_logits, weight, out=matrix.new_empty(len(d_logits), weight.shape[1])
            )
        else:
            multiply(d_logits, weight, out=matrix[tile])


def _added(total: Tensor | None, left: Tensor, right: Tensor) -> Tensor:
    """``total + left @ right`` in float32, in place; None begins a sum of half-precision products."""
    if total is not None:
        return add_product(total, left, right)
    return left @ right if left.dtype == torch.float32 else multiply_in_float32(left, right)
