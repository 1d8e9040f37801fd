"""Accuracy and calibration are of all completions whose prompts have a gold answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rlif.metrics.calibration import auroc, brier_score, expected_calibration_error
from rlif.self_feedback.measure import confidence_and_correctness, measures


def test_measures_are_those_of_all_answers_to_prompts_that_have_a_gold_one() -> None:
    def completion(answer: str | None, score: float) -> dict[str, Any]:
        names = ("probability_disparity", "token_probability", "entropy_confidence", "inverse_perplexity")
        row = {"answer": answer, "ids": [1, 2], "finished": True}
        return row | {"confidence": {**dict.fromkeys(names, score), "self_certainty": score}}

    rows = [
        {"answer": "7", "completions": [completion("7", 1.0), completion("8", 0.0)]},
        {"answer": "3", "completions": [completion("3.0", 0.8), completion(None, -0.1)]},
        {"answer": None, "completions": [completion("5", 0.5), completion("5", 0.5)]},
    ]
    result = measures(rows)
    scores, correct = np.array([1.0, 0.0, 0.8, 0.0]), np.array([True, False, True, False])
    assert result["accuracy"] == 0.5
    assert result["accuracy_se"] == 0.0  # both prompts have one right answer of two
    assert result["answered"] == 0.75
    assert result["probability_disparity/ece"] == expected_calibration_error(scores, correct) == pytest.approx(0.05)
    assert result["probability_disparity/brier"] == brier_score(scores, correct)
    assert result["probability_disparity/auroc"] == auroc(scores, correct) == 1.0
    assert "self_certainty/ece" not in result


def test_confidence_in_what_was_cut_off_is_none_unless_its_answer_is_marked() -> None:
    scores = {"probability_disparity": 0.95, "p_true": 0.6}
    cut_off = {"ids": [1], "finished": False, "span": [0, 1], "confidence": scores}
    rows = [{"answer": "7", "completions": [cut_off | {"answer": None}, cut_off | {"answer": "7"}]}]
    values, correct = confidence_and_correctness(rows, "probability_disparity")
    assert (values.tolist(), correct.tolist()) == ([0.0, 0.95], [False, True])
    # What the judge says is of the whole, answer or not.
    assert confidence_and_correctness(rows, "p_true")[0].tolist() == [0.6, 0.6]
