"""Ranks and their correlation are SciPy's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata, spearmanr

from rlif.metrics.ranks import midranks, rank_correlation


@given(values=st.lists(st.integers(-3, 3), min_size=1, max_size=20))
def test_equal_numbers_share_the_mean_of_their_ranks(values: list[int]) -> None:
    assert midranks(values).tolist() == rankdata(values).tolist()


def test_the_correlation_of_ranks_is_spearmans() -> None:
    x, y = [0.1, 0.5, 0.5, 0.9, -1.0], [3.0, 1.0, 2.0, 8.0, 0.0]
    assert rank_correlation(x, y) == pytest.approx(spearmanr(x, y).statistic)
    assert rank_correlation([1, 2, 3], [10, 20, 40]) == pytest.approx(1.0)
    assert np.isnan(rank_correlation([1, 1, 1], [1, 2, 3]))
