"""Accuracy, precision and recall of a loop are those that are counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from rlif.retry.measure import Tried, measure

NAN = np.nan
# Accepted and right; rejected though right, then accepted and wrong; never accepted, the first the more probable and
# right; without a gold answer.
TRIED = Tried(
    probability=np.array([[0.9, NAN], [0.3, 0.8], [0.4, 0.2], [0.7, NAN]]),
    right=np.array([[1, NAN], [1, 0], [1, 0], [NAN, NAN]]),
    tokens=np.array([[5.0, 0], [5, 7], [5, 7], [5, 0]]),
    ends=["accepted", "accepted", "max_rounds", "accepted"],
)


def test_rounds_and_answers_are_counted() -> None:
    found = measure(TRIED, resamples=50)
    assert (found.prompts, found.labelled) == (4, 3)
    assert found.ends == {"accepted": 0.75, "max_rounds": 0.25, "too_long": 0.0}
    first, second = found.rounds
    assert (first.attempts, second.attempts) == (4, 2)
    assert (first.accepted.value, second.accepted.value) == (0.5, 0.5)
    assert (first.right.value, second.right.value) == (1.0, 0.0)
    assert (first.precision.value, second.precision.value) == (1.0, 0.0)
    assert first.recall.value == pytest.approx(1 / 3)
    assert np.isnan(second.recall.value)  # nothing right to accept
    assert first.accuracy.value == 1.0
    assert second.accuracy.value == found.accuracy.value == pytest.approx(2 / 3)
    assert found.precision.value == 0.5
    assert found.gain.value == -0.5
    assert found.recall.value == pytest.approx(1 / 3)
    assert found.any_right.value == 1.0
    assert found.tokens.value == 34 / 4
    # In the end: 0.9 right, 0.8 wrong, 0.4 right.
    assert found.curves["answers in the end"].risk.tolist() == pytest.approx([0, 1 / 2, 1 / 3])


def test_who_abstains_answers_nothing_that_was_not_accepted() -> None:
    assert measure(TRIED, abstain=True, resamples=50).accuracy.value == pytest.approx(1 / 3)


def test_without_gold_answers_nothing_is_right_or_wrong() -> None:
    tried = Tried(TRIED.probability, np.full((4, 2), NAN), TRIED.tokens, TRIED.ends)
    found = measure(tried, resamples=50).to_json()
    assert found["accuracy"]["value"] is found["precision"]["value"] is found["auroc"]["value"] is None
    assert found["rounds"][0]["accepted"]["value"] == 0.5
    assert found["aurc"] == {}
