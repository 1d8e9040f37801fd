"""Tiles of logits fit their budget."""

import pytest

from rlif_kernels.head.tiles import tile_sizes


@pytest.mark.parametrize(
    ("total", "bytes_each", "tile_bytes", "expected"),
    [
        (0, 10, 100, []),
        (5, 10, 100, [5]),
        (5, 10, 25, [2, 2, 1]),
        (5, 1000, 25, [1] * 5),
        (8192, 2 * 131072, 512 << 20, [1664] * 4 + [1536]),
        (8192, 2 * 151936, 512 << 20, [1408] * 5 + [1152]),
        (300, 1, 299, [256, 44]),
    ],
)
def test_tiles_are_equal_parts_that_fit_the_budget(total, bytes_each, tile_bytes, expected):
    assert tile_sizes(total, bytes_each, tile_bytes) == expected
