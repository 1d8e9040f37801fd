"""Accuracy and calibration before and after, from sampled chains of thought with gold answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from rlif.calibration import auroc, brier_score, expected_calibration_error, reliability_bins
from rlif.self_feedback.config import Confidence
from rlif.self_feedback.preferences import is_correct
from rlif.self_feedback.stage_file import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Of two models: blue and vermilion of Okabe and Ito's palette, told apart by colour-blind readers too.
COLORS = ("#0072B2", "#D55E00")


def measured(rows: Sequence[Row], confidence: str) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Confidence and correctness, (N,) each, of the chains of thought of questions that have a gold answer."""
    traces = [(trace, row["answer"]) for row in rows if row["answer"] is not None for trace in row["traces"]]
    scores = np.array([trace["confidence"][confidence] for trace, _ in traces], dtype=np.float64)
    return scores, np.array([bool(is_correct(trace, gold)) for trace, gold in traces])


def measures(rows: Sequence[Row]) -> dict[str, float]:
    """What there is to say of one model's chains of thought, as far as questions have gold answers.

    Returns:
        accuracy: share of right answers; accuracy_se: its standard error over questions; answered: share that has an
        answer; and of each score NAME of `Confidence`: NAME/mean; NAME/auroc (NaN if all are right, or none); and,
        for those that are probabilities, NAME/ece (10 bins) and NAME/brier. A score below 0 counts there as 0.
    """
    judged = [row for row in rows if row["answer"] is not None]
    shares = [np.mean([bool(is_correct(trace, row["answer"])) for trace in row["traces"]]) for row in judged]
    traces = [trace for row in judged for trace in row["traces"]]
    result = {
        "accuracy": float(np.mean(shares)),
        "accuracy_se": float(np.std(shares, ddof=1) / math.sqrt(len(shares))) if len(shares) > 1 else math.nan,
        "answered": sum(trace["answer"] is not None for trace in traces) / len(traces),
        "completion_length": sum(len(trace["ids"]) for trace in traces) / len(traces),
    }
    for name in get_args(Confidence):
        scores, correct = measured(rows, name)
        result[f"{name}/mean"] = float(scores.mean())
        result[f"{name}/auroc"] = auroc(scores, correct)
        if name != "self_certainty":
            probability = scores.clip(0, 1)
            result[f"{name}/ece"] = expected_calibration_error(probability, correct)
            result[f"{name}/brier"] = brier_score(probability, correct)
    return result


def draw_reliability(models: Mapping[str, Sequence[Row]], confidence: str, path: Path) -> None:
    """Draw accuracy against confidence in ten bins, and how many chains of thought each has, as a PNG.

    Args:
        models: at most two, the rows of each by its name.
        confidence: the score to draw, one that is a probability.
        path: the PNG; its directory exists.
    """
    figure = Figure(figsize=(5.2 * len(models), 6.2), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, len(models), height_ratios=(3, 1), sharex=True, sharey="row", squeeze=False)
    for column, (name, rows) in enumerate(models.items()):
        scores, correct = measured(rows, confidence)
        _draw_model(panels[0][column], panels[1][column], name, scores.clip(0, 1), correct, COLORS[column])
    panels[0][0].set_ylabel("share that is right")
    panels[1][0].set_ylabel("share of\nanswers")
    for axes in panels[1]:
        axes.set_xlabel(f"confidence ({confidence.replace('_', ' ')})")
    figure.savefig(path)


def _draw_model(
    upper: Axes, lower: Axes, name: str, scores: NDArray[np.float64], correct: NDArray[np.bool_], color: str
) -> None:
    bins = reliability_bins(scores, correct)
    filled = bins.counts > 0
    width = float(bins.edges[1])
    centers = bins.edges[:-1] + width / 2
    upper.plot([0, 1], [0, 1], "--", color="#888888", linewidth=1)
    upper.bar(centers[filled], bins.accuracy[filled], width * 0.92, color=color, alpha=0.35)
    # Where the mean of a bin is: on the diagonal, were the model calibrated.
    upper.plot(bins.confidence[filled], bins.accuracy[filled], "o", color=color, markersize=6)
    ece = expected_calibration_error(scores, correct)
    upper.set_title(f"{name}: accuracy {correct.mean():.1%}, ECE {ece:.3f}", loc="left", fontweight="bold")
    upper.set_ylim(0, 1.02)
    upper.set_xlim(0, 1)
    upper.yaxis.set_major_formatter(PercentFormatter(1.0))
    lower.bar(centers, bins.counts / bins.counts.sum(), width * 0.92, color=color)
    lower.yaxis.set_major_formatter(PercentFormatter(1.0))
    for axes in (upper, lower):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
