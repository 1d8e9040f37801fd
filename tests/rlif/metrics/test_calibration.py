"""Calibration counts every completion once; discrimination does not depend on the order of equals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss

from rlif.metrics.calibration import (
    auroc,
    auroc_within,
    brier_score,
    expected_calibration_error,
    isotonic_confidence,
    logistic_confidence,
    reliability_bins,
    risk_coverage,
)

# Few values, so that ties and edges of bins are common.
PROBABILITIES = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.3, 0.7, 0.999, 1.0]), st.booleans()), min_size=1, max_size=30
)


def by_hand(confidence: np.ndarray, correct: np.ndarray, num_bins: int) -> float:
    """The definition, completion by completion."""
    total = 0.0
    for index in range(num_bins):
        low, high = index / num_bins, (index + 1) / num_bins
        rows = [row for row, c in enumerate(confidence) if low <= c < high or (index == num_bins - 1 and c == high)]
        if rows:
            total += abs(sum(confidence[row] - correct[row] for row in rows))
    return total / len(confidence)


@given(rows=PROBABILITIES, num_bins=st.integers(1, 12))
def test_every_completion_is_in_one_bin_and_the_error_is_the_definition(
    rows: list[tuple[float, bool]], num_bins: int
) -> None:
    confidence, correct = (np.array(column) for column in zip(*rows, strict=True))
    bins = reliability_bins(confidence, correct, num_bins)
    assert bins.counts.sum() == len(rows)
    filled = bins.counts > 0
    assert (bins.edges[:-1][filled] <= bins.confidence[filled] + 1e-12).all()  # a mean of equals, rounded
    assert (bins.confidence[filled] <= bins.edges[1:][filled] + 1e-12).all()
    assert np.isnan(bins.accuracy[~filled]).all()
    # Sums of at most 30 float64 numbers in another order.
    assert expected_calibration_error(confidence, correct, num_bins) == pytest.approx(
        by_hand(confidence, correct, num_bins), abs=1e-12
    )


def test_confidences_of_0_and_1_count() -> None:
    # Always wrong and sure of being right, always right and sure of being wrong: as bad as it gets.
    assert expected_calibration_error([0.0, 0.0, 1.0], [True, True, False]) == 1.0
    assert expected_calibration_error([0.0, 1.0], [False, True]) == 0.0
    assert reliability_bins([0.0, 1.0, 0.3], [False, True, True]).counts.tolist() == [1, 0, 0, 1, 0, 0, 0, 0, 0, 1]


def test_the_brier_score_is_that_of_scikit_learn() -> None:
    confidence, correct = [0.2, 0.9, 0.5, 1.0], [False, True, True, False]
    assert brier_score(confidence, correct) == pytest.approx(brier_score_loss(correct, confidence))


@given(rows=st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=20))
def test_auroc_is_the_share_of_pairs_in_the_right_order_with_ties_as_halves(rows: list[tuple[int, bool]]) -> None:
    right = [score for score, correct in rows if correct]
    wrong = [score for score, correct in rows if not correct]
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in right for b in wrong]
    value = auroc([score for score, _ in rows], [correct for _, correct in rows])
    if pairs:
        assert value == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)  # rounding of a mean
    else:
        assert np.isnan(value)


@given(
    groups=st.lists(
        st.lists(st.tuples(st.integers(-2, 2), st.booleans()), min_size=3, max_size=3), min_size=1, max_size=5
    )
)
def test_auroc_within_prompts_is_the_mean_of_those_that_have_one(groups: list[list[tuple[int, bool]]]) -> None:
    table = np.array(groups)
    scores, correct = table[..., 0], table[..., 1].astype(bool)
    single = [auroc(*pair) for pair in zip(scores, correct, strict=True)]
    defined = [value for value in single if not np.isnan(value)]
    value = auroc_within(scores, correct)
    if defined:
        assert value == pytest.approx(np.mean(defined), abs=1e-12)  # rounding of a mean
    else:
        assert np.isnan(value)


@given(rows=st.lists(st.tuples(st.integers(-2, 2), st.booleans()), min_size=1, max_size=12), data=st.data())
def test_the_order_of_equal_scores_does_not_change_the_risk(rows: list[tuple[int, bool]], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(rows))
    first, second = (
        risk_coverage([score for score, _ in part], [correct for _, correct in part]) for part in (rows, shuffled)
    )
    assert np.array_equal(first.risk, second.risk)
    assert first.coverage[-1] == 1.0
    wrong = sum(not correct for _, correct in rows) / len(rows)
    assert first.risk[-1] == pytest.approx(wrong, abs=1e-12)  # rounding of a sum


def test_risk_is_the_share_wrong_among_the_most_confident() -> None:
    curve = risk_coverage([0.1, 3.0, 2.0, -5.0], [False, True, False, True])
    assert curve.coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert curve.risk == pytest.approx([0, 1 / 2, 2 / 3, 2 / 4])
    assert curve.area == pytest.approx((0 + 1 / 2 + 2 / 3 + 2 / 4) / 4)
    assert risk_coverage([7.0] * 4, [True, False, False, False]).area == pytest.approx(0.75)  # no order, no help


def calibrated_scores(prompts: int, per_prompt: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log-odds of being right, and whether each was."""
    generator = np.random.default_rng(0)
    log_odds = generator.normal(size=prompts * per_prompt)
    correct = generator.random(len(log_odds)) < 1 / (1 + np.exp(-log_odds))
    return log_odds, correct, np.repeat(np.arange(prompts), per_prompt)


def test_isotonic_confidence_makes_probabilities_of_scores_in_nats() -> None:
    score, correct, groups = calibrated_scores(500, 8)
    confidence = isotonic_confidence(score, correct, groups)
    assert ((confidence >= 0) & (confidence <= 1)).all()
    # 4000 draws in 10 bins: a right probability is off by 0.4 / sqrt(400) = 0.02 a bin from chance alone.
    assert expected_calibration_error(confidence, correct) < 0.04
    assert np.abs(confidence - 1 / (1 + np.exp(-score))).mean() < 0.04
    # A score that says nothing gets the base rate everywhere, not a perfect fit of these completions.
    noise = np.random.default_rng(1).normal(size=len(score))
    assert np.abs(isotonic_confidence(noise, correct, groups) - correct.mean()).mean() < 0.05


def test_several_scores_together_know_what_each_knows_a_part_of() -> None:
    first, correct, groups = calibrated_scores(500, 8)
    hidden = np.random.default_rng(2).normal(size=len(first))
    parts = np.stack([first + hidden, 30 * hidden], axis=1)  # the units do not matter
    together = logistic_confidence(parts, correct, groups)
    assert ((together > 0) & (together < 1)).all()
    assert np.abs(together - 1 / (1 + np.exp(-first))).mean() < 0.02
    assert auroc(together, correct) > auroc(parts[:, 0], correct) + 0.05
    assert logistic_confidence(parts[:8], np.ones(8, bool), np.arange(8)).tolist() == [1.0] * 8
    with pytest.raises(ValueError, match=r"scores has shape \(8,\), expected \(N, K\)"):
        logistic_confidence(first[:8], correct[:8], groups[:8])
    with pytest.raises(ValueError, match=r"groups has shape \(7,\), expected that of correct, \(8,\)"):
        logistic_confidence(parts[:8], correct[:8], groups[:7])


def test_no_prompt_is_calibrated_on_its_own_completions() -> None:
    score, correct, groups = calibrated_scores(10, 4)
    own = groups == 3
    other = correct.copy()
    other[own] = ~other[own]
    for fit in (isotonic_confidence, lambda score, *more: logistic_confidence(score[:, None], *more)):
        before, after = (fit(score, labels, groups) for labels in (correct, other))
        assert np.array_equal(before[own], after[own])
        assert not np.array_equal(before[~own], after[~own])


@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_a_confidence_that_is_no_probability_is_refused_by_name(value: float) -> None:
    for measure in (expected_calibration_error, brier_score, reliability_bins):
        with pytest.raises(ValueError, match=rf"confidence 1 is {value}, expected a probability in \[0, 1\]"):
            measure([0.5, value], [True, False])


def test_bad_arrays_are_refused_with_what_came() -> None:
    with pytest.raises(ValueError, match="score 1 is nan, expected a finite number"):
        auroc([0.5, np.nan], [True, False])
    with pytest.raises(ValueError, match=r"shape \(2,\) and correct \(1,\)"):
        risk_coverage([1.0, 2.0], [True])
    with pytest.raises(ValueError, match=r"shape \(2,\) and correct \(2,\), expected the same \(P, N\)"):
        auroc_within([1.0, 2.0], [True, False])
    with pytest.raises(ValueError, match="got no completion"):
        brier_score([], np.zeros(0, dtype=bool))
    with pytest.raises(ValueError, match="correct has dtype int64, expected bool"):
        auroc([0.5, 0.6], [1, 0])
    with pytest.raises(ValueError, match="1 prompts and num_folds 5"):
        isotonic_confidence([1.0, 2.0], [True, False], [0, 0])
    with pytest.raises(ValueError, match="num_bins is 0"):
        reliability_bins([1.0], [True], 0)
