"""Tiles of logits: how large they are, and the rows of hidden states that take part, tile by tile.

With b the bytes of a logit and h those of an element of the hidden states, a tile has at most

    rows    = tile_bytes * 15/16 / (V b + 2 H h)                   of whole rows, in a forward
    columns = (tile_bytes - beside) * 15/16 / (N b)                of all rows, in a backward

One sixteenth is left to the workspace of the matrix product. The 2 H are the hidden states of a row and their gradient,
if rows have to be gathered, else 0. `beside` is what a backward needs with the tile: gathered hidden states, and the
sum of their gradient in float32 (`HeadGradients.bytes_beside_a_tile`), but at most half of `tile_bytes`. The tiles of a
call are of equal size, a multiple of 128 if there are that many rows or columns, because matrix products are fastest
then. Masked rows are left out: the other rows are gathered tile by tile.

A loss that computes its gradient in the forward has tiles of whole rows, and each adds to the gradient of all of the
weight. A half-precision weight needs a float32 sum for that, of S = 4 V H bytes, which every tile reads and writes:

    one tile                N V b bytes              3 products
    several, with the sum   tile_bytes + S           3 products, and 8 V H bytes moved a tile
    several, in two passes  max(tile_bytes,          4 products, and the logits' tiles a second time
                              tile_bytes / 2 + 4 N H)

The second is compared with the third by time: with r rows in a tile the fourth product is 2 r V H operations, which
take as long as the sum's 8 V H bytes at r = 4 (operations a second) / (bytes a second): 720 for 770 TFLOP/s and 4.3
TB/s, 300 for 750 GFLOP/s and 10 GB/s. So the sum serves from 512 rows a tile on, and two passes below, which take less
memory. One tile is the fastest, and is taken where it needs no more memory than that: with the sum where
N V b <= tile_bytes + 4 V H, so for N <= 2 H rows whenever b = 2. At N = 8192, H = 4096, V = 131072 it is 2.1 GB, where
tile_bytes = 512 MiB and the sum are 2.7.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from rlif_kernels.stats import IGNORE_INDEX

DEFAULT_TILE_BYTES = 512 << 20
# Matrix products run best on whole blocks of their kernels.
PRODUCT_BLOCK = 128
# The share of the product's workspace, one part in 16: 32 MiB of 512, what cuBLAS takes on recent GPUs.
WORKSPACE_SHARE = 16
# Rows of a tile from which on its share of the weight's gradient is worth a float32 sum.
SUM_ROWS = 512


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


def loss_tiles(
    num_rows: int, num_learning: int, row_bytes: int, tile_bytes: int, weight_sum_bytes: float, hidden_sum_bytes: int
) -> tuple[int, bool]:
    """The rows of a tile, for a loss with its gradient, and whether one pass over the tiles is to do.

    Args:
        num_rows: that take part.
        num_learning: those of them that have a gradient, whose tiles come first.
        row_bytes: of a row of a tile.
        weight_sum_bytes: of the float32 sum that several tiles need for the gradient of the weight; 0 where they add to
            the gradient itself, infinite where such a sum is slower than two passes in any case.
        hidden_sum_bytes: of the float32 sum that two passes need for the gradient of the hidden states.
    """
    per_tile = max(tile_sizes(num_rows, row_bytes, tile_bytes), default=1)
    if num_learning <= per_tile or not weight_sum_bytes:
        return per_tile, True
    sums = per_tile >= SUM_ROWS and weight_sum_bytes < math.inf
    several = tile_bytes + weight_sum_bytes if sums else max(tile_bytes, tile_bytes // 2 + hidden_sum_bytes)
    return (num_learning, True) if num_learning * row_bytes <= several else (per_tile, sums)


def tiles(sizes: Sequence[int]) -> Iterator[slice]:
    """The ranges that tiles of these sizes take, one after the other."""
    start = 0
    for size in sizes:
        yield slice(start, start + size)
        start += size


class HiddenRows:
    """Rows of hidden states (..., H), those that are not masked or some of them, in any order, tile by tile."""

    def __init__(self, hidden: Tensor, rows: Tensor | None) -> None:
        """`rows` are the numbers of the rows to take, from 0 to N - 1, or None for all."""
        self.hidden = hidden
        self.matrix = _as_matrix(hidden)
        if rows is None and self.matrix is None:
            rows = torch.arange(hidden.shape[:-1].numel(), device=hidden.device)
        self.rows = rows
        self.index = slice(None) if rows is None else rows
        self.count = hidden.shape[:-1].numel() if rows is None else len(rows)

    @property
    def gathered(self) -> bool:
        return self.rows is not None

    def take(self, tile: slice) -> Tensor:
        """(tile, H) hidden states: a view if the rows are all rows and lie side by side, else a copy."""
        if self.rows is None:
            assert self.matrix is not None
            return self.matrix[tile]
        rows = self.rows[tile]
        if self.matrix is not None:
            return self.matrix[rows]
        return self.hidden[torch.unravel_index(rows, self.hidden.shape[:-1])]

    def numbers(self, tile: slice) -> slice | Tensor:
        """Where the rows of a tile stand among all rows."""
        return tile if self.rows is None else self.rows[tile]


def active_rows(targets: Tensor) -> Tensor | None:
    """The flat numbers of the rows that are not masked; None if all are. Costs a GPU a synchronisation."""
    rows = (targets.view(-1) != IGNORE_INDEX).nonzero()[:, 0]
    return None if len(rows) == targets.numel() else rows


def _as_matrix(hidden: Tensor) -> Tensor | None:
    """(..., H) as (N, H) without a copy, or None where the strides do not allow it."""
    try:
        return hidden.view(-1, hidden.shape[-1])
    except RuntimeError:
        return None
