"""The head's matrix products, tile by tile: no more of the logits exists at a time than one tile.

A forward walks over tiles of whole rows, because a row's statistics fold over all of its columns; an ordinary backend
then serves each tile. A backward that knows the rows' statistics walks over tiles of columns of all rows instead: there
each column's gradient of the weight is one product, rounded once, and what must be summed over tiles is the gradient of
the hidden states, which is the smaller of the two by far.

The shape of a tile follows from `tile_bytes`: as many rows of V logits (columns of N) as it holds, in the dtype of the
hidden states, less a sixteenth, which is left to the matrix product's own workspace, and less what must be at hand
beside the tile: rows of hidden states that have to be gathered, and a sum in float32 of their gradient that cannot take
place in the gradient itself. In equal parts, and multiples of 128 where there are that many, for the product's sake.
Masked rows take part in nothing: the others are gathered tile by tile.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rlif_kernels.backends.sharded.slices import backward_slice, slice_targets
from rlif_kernels.reference import check_values
from rlif_kernels.stats import IGNORE_INDEX, STATE_ROWS

if TYPE_CHECKING:
    from rlif_kernels.backends.sharded.parallel import VocabParallel

DEFAULT_TILE_BYTES = 512 << 20
# Matrix products run best on whole blocks of their kernels.
PRODUCT_BLOCK = 128
# One part in so many of the budget is the product's own: 32 MiB of 512, what cuBLAS takes on recent GPUs.
WORKSPACE_SHARE = 16
# Before 2.12 torch has products of half-precision matrices in float32, but does not add them to a float32 matrix: there
# a block of rows of the product comes first, 128 MiB at H = 4096.
ADDS_TO_FLOAT32 = torch.torch_version.TorchVersion(torch.__version__) >= "2.12"
ADD_BLOCK = 8192
# Columns to cast at a time: 8192 rows of them take 32 MiB.
CAST_BLOCK = 1024


def tile_sizes(total: int, bytes_each: int, tile_bytes: int) -> list[int]:
    """How many rows (or columns) of `bytes_each` bytes each tile takes: equal parts of `total`, each at least 1."""
    most = max(1, (tile_bytes - tile_bytes // WORKSPACE_SHARE) // bytes_each)
    if most > PRODUCT_BLOCK:
        most = most // PRODUCT_BLOCK * PRODUCT_BLOCK
    parts = math.ceil(total / most)
    each = math.ceil(total / parts) if parts else 0
    if each < most:
        each = min(most, math.ceil(each / PRODUCT_BLOCK) * PRODUCT_BLOCK)
    return [min(each, total - start) for start in range(0, total, each)] if total else []


@dataclass(frozen=True)
class Head:
    """A call's tensors and what it says of them; all rows, all columns."""

    hidden: Tensor
    """(..., H)."""
    weight: Tensor
    """(V, H)."""
    bias: Tensor | None
    targets: Tensor
    """(...), as the backend wants them."""
    temperature: float | Tensor
    softcap: float
    num_columns: int
    """Columns to read; the gradient of the others is 0."""
    backend: "ModuleType | VocabParallel"
    tile_bytes: int
    largest_slice: int
    """Columns of the largest shard: decides the tiles of rows, which must be the same on every rank."""

    @property
    def sharded(self) -> bool:
        return not isinstance(self.backend, ModuleType)

    def row_tile_sizes(self, rows: "HeadRows") -> list[int]:
        """How many rows each tile of a forward takes."""
        # Gathered rows take part with their hidden states, and with the gradient of these. They may be gathered for
        # their strides, a rank's own affair, while all ranks need the same tiles: of a group all count as gathered.
        gathered = 2 * self.hidden.shape[-1] if rows.gathered or self.sharded else 0
        return tile_sizes(rows.count, (self.largest_slice + gathered) * self.hidden.element_size(), self.tile_bytes)

    def logits(self, hidden: Tensor, columns: slice, buffer: Tensor) -> Tensor:
        """(rows, columns) logits, ``hidden @ weight.T + bias``, in the front of the flat buffer."""
        weight = self.weight[columns]
        tile = buffer[: len(hidden) * len(weight)].view(len(hidden), len(weight))
        if self.bias is None:
            return torch.mm(hidden, weight.T, out=tile)
        return torch.addmm(self.bias[columns], hidden, weight.T, out=tile)


class HeadRows:
    """The rows of hidden states (..., H) that are not masked, in an order of one's choice, taken tile by tile."""

    def __init__(self, hidden: Tensor, rows: Tensor | None) -> None:
        """`rows` are the flat numbers of the rows to take, or None for all."""
        self.hidden = hidden
        self.matrix = _as_matrix(hidden)
        if rows is None and self.matrix is None:
            rows = torch.arange(hidden.shape[:-1].numel(), device=hidden.device)
        self.rows = rows
        self.count = hidden.shape[:-1].numel() if rows is None else len(rows)

    @property
    def gathered(self) -> bool:
        return self.rows is not None

    def take(self, tile: slice) -> Tensor:
        """(tile, H) hidden states: a view where nothing lies between the rows, else a copy."""
        if self.rows is None:
            assert self.matrix is not None
            return self.matrix[tile]
        rows = self.rows[tile]
        if self.matrix is not None:
            return self.matrix[rows]
        return self.hidden[torch.unravel_index(rows, self.hidden.shape[:-1])]

    def select(self, per_row: Tensor) -> Tensor:
        """What belongs to the rows, of a tensor with one entry for each row of all, flat."""
        flat = per_row.reshape(-1)
        return flat if self.rows is None else flat[self.rows]

    def numbers(self, tile: slice) -> slice | Tensor:
        """Where the rows of a tile stand among all rows."""
        return tile if self.rows is None else self.rows[tile]

    def put(self, out: Tensor, tile: slice, value: Tensor) -> None:
        """Write a tile's values into the last dimension of `out` (…, N), at the rows' places."""
        out[..., self.numbers(tile)] = value


def active_rows(targets: Tensor) -> Tensor | None:
    """The flat numbers of the rows that are not masked; None if all are. Costs a GPU a synchronisation."""
    rows = (targets.view(-1) != IGNORE_INDEX).nonzero()[:, 0]
    return None if len(rows) == targets.numel() else rows


def no_autocast(like: Tensor) -> torch.autocast:
    """The dtypes were settled before: nothing is to be cast within."""
    return torch.autocast(like.device.type, enabled=False)


def check_unsliced(targets: Tensor, temperature: float | Tensor, num_columns: int, group: str) -> None:
    """On a CPU, refuse what a backend would refuse, while positions are still those of the caller."""
    if targets.device.type == "cpu" and not group:  # of a group, `own_slice` did it
        check_values(targets, temperature, num_columns)


def tiles(sizes: Sequence[int]) -> Iterator[slice]:
    """The ranges that tiles of these sizes take, one after the other."""
    start = 0
    for size in sizes:
        yield slice(start, start + size)
        start += size


def temperature_of(head: Head, rows: HeadRows) -> Callable[[slice], float | Tensor]:
    """The temperature of the rows in a tile."""
    if not isinstance(head.temperature, Tensor):
        return lambda tile: head.temperature
    return rows.select(head.temperature).__getitem__


def forward(
    head: Head, rows: HeadRows, outputs: Sequence[str], kept: Tensor | None = None
) -> tuple[dict[str, Tensor], Tensor]:
    """The fields and the row state, as a backend's forward gives them, of all rows; 0 in those not taken.

    `kept`, (at least rows.count, num_columns), is to hold all logits for the backward; None: one tile does for all.
    """
    num_rows, sizes = head.targets.numel(), head.row_tile_sizes(rows)
    state = head.weight.new_zeros((STATE_ROWS, num_rows), dtype=torch.float32)
    fields = {name: state.new_zeros((2, num_rows) if name == "top_probs" else num_rows) for name in outputs}
    targets, temperature = rows.select(head.targets), temperature_of(head, rows)
    buffer = head.weight.new_empty(max(sizes, default=0) * head.num_columns if kept is None else 0)
    for tile in tiles(sizes):
        into = buffer if kept is None else kept[tile].view(-1)
        logits = head.logits(rows.take(tile), slice(head.num_columns), into)
        tile_fields, tile_state = head.backend.forward(
            logits, targets[tile], temperature(tile), head.softcap, head.num_columns, outputs
        )
        rows.put(state, tile, tile_state)
        for name, value in tile_fields.items():
            rows.put(fields[name], tile, value.T if name == "top_probs" else value)
    return {name: value.T if name == "top_probs" else value for name, value in fields.items()}, state


def backward(
    head: Head,
    rows: HeadRows,
    grads: dict[str, Tensor],
    row_state: Tensor,
    needs: tuple[bool, bool, bool],
    kept: Tensor | None = None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of hidden states, weight and bias; None for those that `needs` leaves out.

    Args:
        grads, row_state: of all rows.
        kept: the logits of the rows taken, which the gradient overwrites; None to compute them again.
    """
    gradients = HeadGradients(head, rows, needs, rows.count)
    everything, num_columns = slice(0, rows.count), head.num_columns
    # Tiles of a rank's columns are slices of the whole vocabulary as well: neither needs an exchange.
    slices: ModuleType = head.backend.backend if head.sharded else head.backend  # type: ignore[assignment]
    targets = rows.select(head.targets)
    if not head.sharded:
        targets = slice_targets(targets, 0, num_columns, num_columns)
    temperature = temperature_of(head, rows)(everything)
    state = row_state if rows.rows is None else row_state[:, rows.rows]
    grads = {name: rows.select(grad) for name, grad in grads.items()}
    if kept is not None or not rows.count:
        sizes = [num_columns] if rows.count else []
    else:
        # Never more than half of the budget, lest the tile be all but nothing.
        beside = min(gradients.bytes_beside_a_tile(), head.tile_bytes // 2)
        sizes = tile_sizes(num_columns, rows.count * head.weight.element_size(), head.tile_bytes - beside)
    buffer = head.weight.new_empty(rows.count * max(sizes, default=0)) if kept is None else kept.view(-1)
    hidden = rows.take(everything)
    for columns in tiles(sizes):
        if kept is None:
            logits = head.logits(hidden, columns, buffer)
        else:
            logits = buffer[: rows.count * num_columns].view(rows.count, num_columns)
        own = slice_targets(targets, columns.start, columns.stop - columns.start)
        backward_slice(slices, logits, grads, logits, own, temperature, head.softcap, logits.shape[1], state)
        gradients.add_columns(columns, logits, hidden, last=columns.stop == num_columns)
    return gradients.finish()


class HeadGradients:
    """The gradients of hidden states, weight and bias, gathered from tiles of the gradient of the logits.

    Half-precision gradients that several tiles add to are summed in float32 and rounded once.
    """

    def __init__(self, head: Head, rows: HeadRows, needs: tuple[bool, bool, bool], num_learning: int) -> None:
        """`num_learning` of the rows, the first ones, add something."""
        self.head, self.rows, self.num_learning = head, rows, num_learning
        weight, bias, num_columns = head.weight, head.bias, head.num_columns
        needs_hidden, needs_weight, needs_bias = needs
        self.hidden = torch.zeros_like(rows.hidden, memory_format=torch.contiguous_format) if needs_hidden else None
        self.weight_sum: Tensor | None = None
        self.hidden_sum: Tensor | None = None
        self.bias_sum: Tensor | None = None
        self.d_weight = torch.empty_like(weight, memory_format=torch.contiguous_format) if needs_weight else None
        if self.d_weight is not None and (num_columns < len(weight) or num_learning == 0):
            self.d_weight[0 if num_learning == 0 else num_columns :] = 0
        if needs_bias and bias is not None:
            self.bias_sum = weight.new_zeros(len(weight), dtype=torch.float32)

    def bytes_beside_a_tile(self) -> int:
        """What `add_columns` needs at hand of all rows: gathered hidden states, and the sum of their gradient."""
        elements = self.rows.count * self.rows.hidden.shape[-1]
        gathered = elements * self.head.weight.element_size() if self.rows.gathered else 0
        return gathered + (elements * 4 if self.hidden is not None and not self._sums_in_place else 0)

    @property
    def _sums_in_place(self) -> bool:
        return not self.rows.gathered and self.head.weight.dtype == torch.float32

    def add_columns(self, columns: slice, d_logits: Tensor, hidden: Tensor, last: bool) -> None:
        """Take the gradient of some columns' logits, of all rows (`hidden`)."""
        if self.d_weight is not None:
            torch.mm(d_logits.T, hidden, out=self.d_weight[columns])
        if self.bias_sum is not None:
            self.bias_sum[columns] = d_logits.sum(0, dtype=torch.float32)
        if self.hidden is not None:
            weight = self.head.weight[columns]
            if self._sums_in_place:  # it starts as zeros
                self.hidden.view(-1, weight.shape[1]).addmm_(d_logits, weight)
            elif self.hidden_sum is None and last:  # the only tile
                self._put_hidden(slice(0, len(hidden)), d_logits @ weight)
            elif self.hidden_sum is None:
                self.hidden_sum = _product_in_float32(None, d_logits, weight)
            else:
                _product_in_float32(self.hidden_sum, d_logits, weight)
                if last:
                    self._put_hidden(slice(0, len(hidden)), self.hidden_sum)

    def add_rows(self, tile: slice, d_logits: Tensor, hidden: Tensor) -> None:
        """Take the gradient of some rows' logits, all columns."""
        if self.hidden is not None:
            weight = self.head.weight[: self.head.num_columns]
            if self.rows.gathered:
                self._put_hidden(tile, d_logits @ weight)
            else:
                torch.mm(d_logits, weight, out=self.hidden.view(-1, weight.shape[1])[tile])
        if self.bias_sum is not None:
            self.bias_sum[: self.head.num_columns] += d_logits.sum(0, dtype=torch.float32)
        if self.d_weight is not None:
            only = tile.start == 0 and tile.stop == self.num_learning
            own = self.d_weight[: self.head.num_columns]
            if only or (self.d_weight.dtype == torch.float32 and tile.start == 0):
                torch.mm(d_logits.T, hidden, out=own)
            elif self.d_weight.dtype == torch.float32:
                own.addmm_(d_logits.T, hidden)
            else:
                self.weight_sum = _product_in_float32(self.weight_sum, d_logits.T, hidden)
                if tile.stop == self.num_learning:
                    own.copy_(self.weight_sum)
                    self.weight_sum = None

    def finish(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        hidden = self.hidden
        if hidden is not None and self.head.sharded:
            hidden = self.head.backend.sum_over_slices(hidden)
        bias = None if self.bias_sum is None else self.bias_sum.to(self.head.weight.dtype)
        return hidden, self.d_weight, bias

    def _put_hidden(self, tile: slice, value: Tensor) -> None:
        assert self.hidden is not None
        matrix = self.hidden.view(-1, self.hidden.shape[-1])
        matrix[self.rows.numbers(tile)] = value.to(matrix.dtype)


def sums_products_in_float32(like: Tensor) -> bool:
    """Whether products of such matrices can be added up in float32 at their own speed."""
    return like.dtype == torch.float32 or (like.device.type == "cuda" and torch.version.hip is None)


def _product_in_float32(total: Tensor | None, left: Tensor, right: Tensor) -> Tensor:
    """``total + left @ right`` in float32, in place; None starts at 0."""
    if left.dtype == torch.float32:
        return left @ right if total is None else total.addmm_(left, right)
    if sums_products_in_float32(left):
        if total is None:
            return torch.mm(left, right, out_dtype=torch.float32)
        if ADDS_TO_FLOAT32:
            return torch.addmm(total, left, right, out_dtype=torch.float32, out=total)
        for start in range(0, len(left), ADD_BLOCK):
            block = slice(start, start + ADD_BLOCK)
            total[block] += torch.mm(left[block], right, out_dtype=torch.float32)
        return total
    # Elsewhere a product comes rounded to the dtype of its factors, too early: cast these, block by block.
    if total is None:
        total = left.new_zeros((len(left), right.shape[1]), dtype=torch.float32)
    for start in range(0, len(right), CAST_BLOCK):
        block = slice(start, start + CAST_BLOCK)
        total.addmm_(left[:, block].float(), right[block].float())
    return total


def _as_matrix(hidden: Tensor) -> Tensor | None:
    """(..., H) as (N, H) without a copy, or None where the strides do not allow it."""
    try:
        return hidden.view(-1, hidden.shape[-1])
    except RuntimeError:
        return None
