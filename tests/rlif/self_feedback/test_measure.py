"""Accuracy and calibration are of all completions whose prompts have a gold answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rlif.metrics.calibration import auroc, brier_score, expected_calibration_error
from rlif.self_feedback.measure import measures


def test_measures_are_those_of_all_answers_to_prompts_that_have_a_gold_one() -> None:
    def completion(answer: str | None, score: float) -> dict[str, Any]:
        names = ("probability_disparity", "token_probability", "entropy_confidence", "inverse_perplexity")
        return {"answer": answer, "ids": [1, 2], "confidence": {**dict.fromkeys(names, score), "self_certainty": score}}

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
