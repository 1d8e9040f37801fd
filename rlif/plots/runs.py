"""What several runs did, metric by metric, from their metrics.jsonl."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from rlif.errors import UserError
from rlif.files.jsonl import read_metrics
from rlif.plots.style import PANELS_IN_A_ROW, legend, line_style, new_figure, over_steps, save_figure, tidy_axes

# What is drawn, in this order, where any run has it; the held-out metric where there is one, else that of training.
PANELS = {
    "accuracy": "accuracy, share right",
    "reward": "reward",
    "entropy": "entropy, nats a token",
    "self_certainty": "self-certainty, nats a token",
    "completion_length": "completion length, tokens",
    "kl": "KL to the start model, nats a token",
    "base_nll": "base NLL, nats a token",
    "eos_rate": "share finished",
}


def compare_runs(runs: Sequence[Path], output: Path) -> Path:
    """Draw runs side by side, and return where.

    Args:
        runs: their directories, each with a metrics.jsonl.
        output: the picture, which is written anew.

    Raises:
        UserError: no run, a directory without metrics, or nothing in them to draw; or a place that cannot be written.
    """
    if not runs:
        raise UserError("runs: got none, expected at least one run directory")
    rows = {str(run): read_metrics(run / "metrics.jsonl", argument="runs", growing=True) for run in runs}
    found = {metric for run in rows.values() for row in run for metric in row}
    panels = [metric for metric in PANELS if metric in found or f"eval/{metric}" in found]
    if not panels:
        raise UserError(f"runs: {', '.join(rows)} have no metrics yet")
    height = math.ceil(len(panels) / PANELS_IN_A_ROW)
    figure = new_figure(4 * min(PANELS_IN_A_ROW, len(panels)), 3 * height + 0.6)
    for index, metric in enumerate(panels, start=1):
        axes = figure.add_subplot(height, min(PANELS_IN_A_ROW, len(panels)), index)
        name = f"eval/{metric}" if f"eval/{metric}" in found else metric
        for number, run in enumerate(rows.values()):
            steps, values = ([row[key] for row in run if name in row] for key in ("step", name))
            marker = "o" if len(steps) == 1 else None  # a line through one point cannot be seen
            axes.plot(steps, values, linewidth=1.5, marker=marker, **line_style(number))
        axes.set_title(PANELS[metric] + (" (held out)" if name != metric else ""), loc="left", fontsize="medium")
        over_steps(axes)
        tidy_axes(axes)
    legend(figure, figure.axes[0].lines, list(rows), loc="outside upper left", ncols=2)
    save_figure(figure, output, argument="output")
    return output
