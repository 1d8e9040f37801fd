"""The forward of a head computes its logits tile by tile: one tile is in memory at a time.

A tile holds whole rows, because the statistics of a row need all of its columns, and a backend takes it like any other
logits. `tiles` chooses the size of a tile; `gradients` holds the backward.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rlif_kernels.backends import Backend, LocalBackend, choices, local_backend, vocab_parallel
from rlif_kernels.checks import check_values
from rlif_kernels.head.products import add_product, multiply, multiply_in_float32
from rlif_kernels.head.tiles import HiddenRows, tile_sizes, tiles
from rlif_kernels.rows import Rows, zero_results

if TYPE_CHECKING:
    from rlif_kernels.backends.sharded.parallel import VocabParallel


@dataclass(frozen=True)
class Head:
    """The arguments of one call of an op on hidden states, for all rows and columns."""

    hidden: Tensor
    """(..., H)."""
    weight: Tensor
    """(V, H)."""
    bias: Tensor | None
    """(V,)."""
    rows: Rows
    backend: LocalBackend
    """For this process's columns."""
    ranks: "VocabParallel | None"
    """The same for rows that are sharded over processes; None if all columns are here."""
    tile_bytes: int
    largest_slice: int
    """Columns of the largest shard: decides the tiles of rows, which must be the same on every rank."""
    logits_dtype: torch.dtype
    """The head's own, or float32."""

    @property
    def row_backend(self) -> Backend:
        """For whole rows, wherever their columns are."""
        return self.ranks or self.backend

    def row_bytes(self, taken: HiddenRows) -> int:
        """Bytes that a row of a tile takes."""
        # Gathered rows take part with their hidden states, and with the gradient of these. They may be gathered for
        # their strides, a rank's own affair, while all ranks need the same tiles: of a group all count as gathered.
        beside = 2 * self.hidden.shape[-1] if taken.gathered or self.ranks else 0
        return self.largest_slice * self.logits_dtype.itemsize + beside * self.hidden.element_size()

    def new_buffer(self, num_elements: int) -> Tensor:
        """Memory for a tile of logits."""
        return self.weight.new_empty(num_elements, dtype=self.logits_dtype)

    def logits(self, hidden: Tensor, columns: slice, buffer: Tensor) -> Tensor:
        """(rows, columns) logits, ``hidden @ weight.T + bias``, in the front of the flat buffer."""
        weight = self.weight[columns]
        tile = buffer[: len(hidden) * len(weight)].view(len(hidden), len(weight))
        bias = None if self.bias is None else self.bias[columns]
        if tile.dtype == weight.dtype:
            return multiply(hidden, weight.T, out=tile, bias=bias)
        if bias is None:
            return multiply_in_float32(hidden, weight.T, out=tile)
        return add_product(tile.copy_(bias.expand_as(tile)), hidden, weight.T)


def head_of(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    rows: Rows,
    backend: str,
    group: str,
    tile_bytes: int,
    largest_slice: int,
    logits_dtype: torch.dtype,
) -> Head:
    """The head of an op's arguments, with the backends that serve it."""
    local = local_backend(backend, hidden)
    ranks = vocab_parallel(local, group)
    return Head(hidden, weight, bias, rows, local, ranks, tile_bytes, largest_slice, logits_dtype)


def autocast(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Cast as autocast would before a linear layer; the library ops compute in the dtype that they are given."""
    if not torch.is_autocast_enabled(hidden.device.type):
        return hidden, weight, bias
    dtype = torch.get_autocast_dtype(hidden.device.type)
    return hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


def no_autocast(like: Tensor) -> torch.autocast:
    """Within an op `autocast` has settled the dtypes: nothing more is to be cast."""
    return torch.autocast(like.device.type, enabled=False)


def check_before_tiles(head: Head) -> None:
    """On a CPU, refuse what a backend would refuse, while positions are still those of the caller."""
    if head.hidden.device.type == "cpu" and head.ranks is None:  # of a group, `own_slice` did it
        check_values(head.rows)


def forward(
    head: Head, taken: HiddenRows, outputs: Sequence[str], kept: Tensor | None = None
) -> tuple[dict[str, Tensor], Tensor]:
    """The fields and the row state, as a backend's forward gives them, of all rows; 0 in those not taken.

    `kept`, (at least taken.count, num_columns), is to hold all logits for the backward; None: one tile does for all.
    """
    num_columns, sizes = head.rows.num_columns, tile_sizes(taken.count, head.row_bytes(taken), head.tile_bytes)
    fields, state = zero_results(head.weight, head.rows, outputs)
    if "top_logprobs" in fields:
        fields["top_columns"] = torch.zeros_like(fields["top_ids"])
    rows = head.rows.take(taken.index)
    buffer = head.new_buffer(max(sizes, default=0) * num_columns if kept is None else 0)
    for tile in tiles(sizes):
        into = buffer if kept is None else kept[tile].view(-1)
        logits = head.logits(taken.take(tile), slice(num_columns), into)
        tile_fields, tile_state = choices.forward(head.backend, head.ranks, logits, rows.take(tile), outputs)
        numbers = taken.numbers(tile)
        state[:, numbers] = tile_state
        for name, value in tile_fields.items():
            fields[name][numbers] = value
    return fields, state
