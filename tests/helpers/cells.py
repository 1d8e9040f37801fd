"""Products of parameters of which each run of the tests tries some."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import product
from typing import Any

import pytest


def slow_and_exhaustive(*axes: Iterable[Any], slow: Collection[tuple[Any, ...]]) -> list[Any]:
    """Every cell of a product, as parameters: those that are named are slow tests, all others exhaustive ones.

    Each value of each axis is to be among the slow ones, and with them any two values that once went wrong together.
    """
    cells, values = list(product(*axes)), [{*axis} for axis in zip(*slow, strict=True)]
    assert [{*axis} for axis in zip(*cells, strict=True)] == values, "a value that no slow test tries"
    return [pytest.param(*cell, marks=pytest.mark.slow if cell in slow else pytest.mark.exhaustive) for cell in cells]
