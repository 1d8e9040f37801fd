"""Reliability diagrams, and risk against coverage, of several confidence scores as PNGs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from rlif.metrics.calibration import ReliabilityBins, RiskCoverage
from rlif.plots.style import (
    BLUE,
    GREY,
    PANELS_IN_A_ROW,
    VERMILLION,
    in_percent,
    legend,
    line_style,
    new_figure,
    save_figure,
    tidy_axes,
    verbatim,
)

_Z = 1.96  # standard deviations on both sides of the mean that hold 95% of a normal distribution


def plot_reliability(scores: Mapping[str, ReliabilityBins], path: Path) -> None:
    """Draw, for each score, accuracy against confidence, and under it how many completions are in each bin.

    Bars are the accuracy of a bin, with Wilson's 95% interval as if completions were independent; the line is its mean
    confidence, which a calibrated score's bars reach. The expected calibration error is in the title.

    Args:
        scores: bins of each score by its title; at least one.
        path: the PNG; its directory exists.

    Raises:
        ValueError: there is no score.
    """
    if not scores:
        raise ValueError("scores: got none, expected at least one")
    columns, rows = min(PANELS_IN_A_ROW, len(scores)), math.ceil(len(scores) / PANELS_IN_A_ROW)
    figure = new_figure(3.1 * columns, 3.6 * rows)
    grid = figure.subplots(
        2 * rows, columns, squeeze=False, sharex=True, gridspec_kw={"height_ratios": [3.0, 1.0] * rows}
    )
    for index, (title, bins) in enumerate(scores.items()):
        row, column = divmod(index, columns)
        _draw_reliability(grid[2 * row, column], bins, title)
        _draw_counts(grid[2 * row + 1, column], bins)
        if column == 0:
            grid[2 * row, 0].set_ylabel("share right")
            grid[2 * row + 1, 0].set_ylabel("completions")
    for index in range(len(scores), rows * columns):
        row, column = divmod(index, columns)
        grid[2 * row, column].set_axis_off()
        grid[2 * row + 1, column].set_axis_off()
    save_figure(figure, path)


def plot_risk_coverage(curves: Mapping[str, RiskCoverage], path: Path) -> None:
    """Draw the share of wrong answers against the share of questions answered, the surest first.

    Args:
        curves: of each score by its name; at least one.
        path: the PNG; its directory exists.

    Raises:
        ValueError: there is no score.
    """
    if not curves:
        raise ValueError("curves: got none, expected at least one")
    figure = new_figure(7.5, 4.6)
    axes = figure.add_subplot()
    best_first = dict(sorted(curves.items(), key=lambda item: item[1].area))
    names = [f"{name} ({curve.area:.3f})" for name, curve in best_first.items()]
    for index, curve in enumerate(best_first.values()):
        axes.plot(curve.coverage, curve.risk, label=names[index], **line_style(index))
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    in_percent(axes.xaxis)
    in_percent(axes.yaxis)
    axes.set_xlabel("coverage: completions kept, the most confident first")
    axes.set_ylabel("risk: share wrong among them")
    tidy_axes(axes)
    place: dict[str, Any] = {"loc": "outside right upper", "alignment": "left"}
    legend(figure, axes.lines, names, title="score (area under its curve)", **place)
    save_figure(figure, path)


def _draw_reliability(axes: Axes, bins: ReliabilityBins, title: str) -> None:
    filled = bins.counts > 0
    left, width = bins.edges[:-1][filled], bins.edges[1] - bins.edges[0]
    accuracy, confidence, counts = bins.accuracy[filled], bins.confidence[filled], bins.counts[filled]
    error = float((counts * abs(accuracy - confidence)).sum() / counts.sum())
    middle = (accuracy * counts + _Z**2 / 2) / (counts + _Z**2)
    half = _Z * (accuracy * (1 - accuracy) * counts + _Z**2 / 4) ** 0.5 / (counts + _Z**2)
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="--")
    axes.bar(left, accuracy, width, align="edge", color=BLUE, alpha=0.75, edgecolor="white")
    axes.errorbar(left + width / 2, middle, yerr=half, fmt="none", ecolor="black", elinewidth=0.8)
    axes.hlines(confidence, left, left + width, color=VERMILLION, linewidth=2)
    axes.set_title(f"{verbatim(title)}\nECE {error:.3f}", loc="left", fontsize="small")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    tidy_axes(axes)


def _draw_counts(axes: Axes, bins: ReliabilityBins) -> None:
    axes.bar(bins.edges[:-1], bins.counts, bins.edges[1], align="edge", color=GREY, edgecolor="white")
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.tick_params(labelbottom=True)
    axes.set_xlabel("confidence", fontsize="small")
    tidy_axes(axes, grid=False)
