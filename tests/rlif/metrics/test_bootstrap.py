"""Intervals are as wide as statistics says, and what is undefined is NaN rather than a number."""

import math

import numpy as np
import pytest

from rlif.metrics.bootstrap import Bootstrap, Estimate
from rlif.metrics.calibration import auroc


def test_the_interval_of_a_mean_is_that_of_the_normal_approximation() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, size=400)
    estimate = Bootstrap(400, resamples=4000, seed=1).mean(values).estimate
    assert estimate.value == pytest.approx(values.mean())
    half = 1.96 * values.std() / math.sqrt(400)
    # The ends are quantiles of 4000 draws: their own standard error is 4% of the half width.
    assert estimate.high - estimate.value == pytest.approx(half, rel=0.15)
    assert estimate.value - estimate.low == pytest.approx(half, rel=0.15)


def test_a_ratio_is_of_sums_and_its_resamples_are_too() -> None:
    bootstrap = Bootstrap(3, resamples=50, seed=0)
    resampled = bootstrap.ratio(np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.0, 6.0]))
    assert resampled.value == 6 / 8
    possible = {
        (a + 2 * b + 3 * c) / (a + b + 6 * c) for a in range(4) for b in range(4) for c in range(4) if a + b + c == 3
    }
    assert all(any(math.isclose(each, one) for one in possible) for each in resampled.resamples)


def test_correlation_is_pearsons_of_centred_values() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 40, 5))
    y += x
    x, y = (each - each.mean(axis=1, keepdims=True) for each in (x, y))
    estimate = Bootstrap(40, resamples=200, seed=0).correlation(x, y).estimate
    assert estimate.value == pytest.approx(np.corrcoef(x.flatten(), y.flatten())[0, 1])
    assert estimate.low < estimate.value < estimate.high


def test_auroc_is_that_of_all_pairs_on_every_resample() -> None:
    generator = np.random.default_rng(0)
    scores, right = generator.integers(0, 6, size=(8, 5)).astype(float), generator.random((8, 5)) < 0.4  # with ties
    bootstrap = Bootstrap(8, resamples=30, seed=0)
    resampled = bootstrap.auroc(scores, right)
    assert resampled.value == pytest.approx(auroc(scores.ravel(), right.ravel()))
    drawn = np.random.default_rng(0).multinomial(8, np.full(8, 1 / 8), size=30)
    for counts, value in zip(drawn, resampled.resamples, strict=True):
        rows = np.repeat(np.arange(8), counts)
        assert value == pytest.approx(auroc(scores[rows].ravel(), right[rows].ravel()))
    assert math.isnan(bootstrap.auroc(scores, np.zeros((8, 5), dtype=bool)).value)


def test_prompts_without_a_value_are_left_out() -> None:
    bootstrap = Bootstrap(4, resamples=500, seed=0)
    resampled = bootstrap.mean(np.array([1.0, math.nan, 1.0, math.nan]))
    assert resampled.estimate == Estimate(1.0, 1.0, 1.0)
    assert np.isnan(resampled.resamples).any()  # those that drew only the others
    undefined = bootstrap.mean(np.full(4, math.nan)).estimate
    assert math.isnan(undefined.value)
    assert math.isnan(undefined.low)
    assert math.isnan(bootstrap.correlation(np.zeros((4, 2)), np.ones((4, 2))).value)


def test_the_same_row_is_the_same_resample_and_the_seed_fixes_it() -> None:
    values = np.arange(10.0)
    bootstrap = Bootstrap(10, resamples=20, seed=0)
    assert np.array_equal(bootstrap.mean(2 * values).resamples, 2 * bootstrap.mean(values).resamples)
    again = Bootstrap(10, resamples=20, seed=0).mean(values).resamples
    assert np.array_equal(bootstrap.mean(values).resamples, again)
    assert not np.array_equal(again, Bootstrap(10, resamples=20, seed=1).mean(values).resamples)
