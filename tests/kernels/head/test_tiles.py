"""Tiles of logits fit their budget, and those of a loss that of tile and sum."""

import math

import pytest

from rlif_kernels.head.tiles import SUM_ROWS, loss_tiles, tile_sizes


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


MIB = 1 << 20


def tiles_of(num_rows, num_columns, width, *, tile_bytes=512 * MIB, itemsize=2, adds=True, num_learning=None):
    """`loss_tiles` of a half-precision weight."""
    learning = num_rows if num_learning is None else num_learning
    weight_sum = 4 * num_columns * width if adds else math.inf
    return loss_tiles(num_rows, learning, num_columns * itemsize, tile_bytes, weight_sum, 4 * learning * width)


def test_all_rows_are_one_tile_where_that_takes_no_more_than_tile_and_sum():
    # H = 4096, V = 131072: the sum is 2.1 GB, as much as all logits of 8192 rows.
    assert tiles_of(8192, 131072, 4096) == (8192, True)
    # 512 MiB more are 2048 rows more, and not one.
    assert tiles_of(10240, 131072, 4096) == (10240, True)
    assert tiles_of(10241, 131072, 4096) == (1792, True)
    # Logits of 4 bytes: half the rows.
    assert tiles_of(5120, 131072, 4096, itemsize=4) == (5120, True)
    assert tiles_of(5121, 131072, 4096, itemsize=4) == (896, True)


@pytest.mark.parametrize("num_columns", [8000, 32000, 131072, 262144])
@pytest.mark.parametrize("width", [256, 512, 2048, 4096])
def test_rows_up_to_twice_the_width_are_one_tile(num_columns, width):
    tile_bytes = SUM_ROWS * num_columns * 2 * 16 // 15 + 1  # the fewest rows that a sum is for
    assert tiles_of(2 * width, num_columns, width, tile_bytes=tile_bytes) == (2 * width, True)


def test_tiles_of_few_rows_take_two_passes_and_the_memory_of_a_tile():
    # 64 MiB are 240 rows: the sum would be 2.1 GB beside them, and cost more time than the fourth product.
    assert tiles_of(8192, 131072, 4096, tile_bytes=64 * MIB) == (128, False)
    # One tile where it is no larger: 2 passes take 32 MiB + 4 N H bytes, and N V b is 65.7 MB.
    assert tiles_of(256, 128256, 128, tile_bytes=64 * MIB) == (256, True)
    assert tiles_of(264, 128256, 128, tile_bytes=64 * MIB) == (128, False)


def test_no_sum_is_made_where_the_device_is_slow_at_it_or_the_gradient_is_the_sum():
    assert tiles_of(4096, 32000, 512, tile_bytes=64 * MIB) == (896, True)
    assert tiles_of(4096, 32000, 512, tile_bytes=64 * MIB, adds=False) == (896, False)
    # float32: tiles add to the gradient itself, however few rows they have.
    assert loss_tiles(8192, 8192, 4 * 131072, 64 * MIB, 0, 4 * 8192 * 4096) == (120, True)


def test_rows_without_a_gradient_do_not_count_towards_the_sum():
    assert tiles_of(4096, 32000, 512, tile_bytes=64 * MIB, num_learning=0) == (896, True)
    assert tiles_of(4096, 32000, 512, tile_bytes=64 * MIB, num_learning=1024) == (1024, True)
