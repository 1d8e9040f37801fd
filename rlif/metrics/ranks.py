"""Numbers by their order alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def midranks(values: ArrayLike) -> NDArray[np.float64]:
    """Return the ranks of (N,) numbers, (N,) from 1 for the smallest to N; equal ones share the mean of theirs."""
    _, place, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def rank_correlation(x: ArrayLike, y: ArrayLike) -> float:
    """Spearman's correlation of two lists of (N,) numbers: Pearson's of their ranks; NaN where all of one are equal."""
    with np.errstate(invalid="ignore", divide="ignore"):  # 0 / 0 is the NaN that says so
        return float(np.corrcoef(midranks(x), midranks(y))[0, 1])
