"""Accuracy and calibration before and after, of sampled completions, where prompts have gold answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rlif.answers.math_verification import RUN_SECONDS, limited_cost
from rlif.files.jsonl import Row
from rlif.metrics.calibration import auroc, brier_score, expected_calibration_error, reliability_bins
from rlif.plots.reliability import plot_reliability
from rlif.self_feedback.rank import as_it_counts, is_correct


def confidence_and_correctness(rows: Sequence[Row], confidence: str) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return confidence and correctness, (N,) each, of the completions of prompts that have a gold answer."""
    judged = [
        (as_it_counts(each), row["answer"]) for row in rows if row["answer"] is not None for each in row["completions"]
    ]
    scores = np.array([completion["confidence"][confidence] for completion, _ in judged], dtype=np.float64)
    return scores, np.array([bool(is_correct(completion, gold)) for completion, gold in judged])


@limited_cost(RUN_SECONDS)
def measures(rows: Sequence[Row]) -> dict[str, float]:
    """What there is to say of one model's completions, as far as prompts have gold answers.

    Returns:
        accuracy: share of right answers; accuracy_se: its standard error over prompts; answered: share that has an
        answer; and of each score NAME that the completions have: NAME/mean; NAME/auroc (NaN if all are right, or none);
        and, for those that are probabilities, NAME/ece (10 bins) and NAME/brier. A score below 0 counts there as 0.
    """
    judged = [row for row in rows if row["answer"] is not None]
    shares = [np.mean([bool(is_correct(each, row["answer"])) for each in row["completions"]]) for row in judged]
    completions = [completion for row in judged for completion in row["completions"]]
    result = {
        "accuracy": float(np.mean(shares)),
        "accuracy_se": float(np.std(shares, ddof=1) / math.sqrt(len(shares))) if len(shares) > 1 else math.nan,
        "answered": sum(completion["answer"] is not None for completion in completions) / len(completions),
        "completion_length": sum(len(completion["ids"]) for completion in completions) / len(completions),
    }
    for name in completions[0]["confidence"]:
        scores, correct = confidence_and_correctness(rows, name)
        result[f"{name}/mean"] = float(scores.mean())
        result[f"{name}/auroc"] = auroc(scores, correct)
        if name != "self_certainty":
            probability = scores.clip(0, 1)
            result[f"{name}/ece"] = expected_calibration_error(probability, correct)
            result[f"{name}/brier"] = brier_score(probability, correct)
    return result


def draw_models_reliability(models: Mapping[str, Sequence[Row]], confidence: str, path: Path) -> None:
    """Draw accuracy against confidence in ten bins, and how many completions each has, as a PNG.

    Args:
        models: the rows of each by its name.
        confidence: the score to draw, one that is a probability.
        path: the PNG; its directory exists.
    """
    bins = {}
    for name, rows in models.items():
        scores, correct = confidence_and_correctness(rows, confidence)
        bins[name] = reliability_bins(scores.clip(0, 1), correct)
    plot_reliability(bins, path)
