"""What several runs did, metric by metric, from their metrics.jsonl."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from rlif.errors import UserError

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
COLUMNS = 4


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
    rows = {str(run): read_rows(run) for run in runs}
    found = {metric for run in rows.values() for row in run for metric in row}
    panels = [metric for metric in PANELS if metric in found or f"eval/{metric}" in found]
    if not panels:
        raise UserError(f"runs: {', '.join(rows)} have no metrics yet")

    height = math.ceil(len(panels) / COLUMNS)
    figure = Figure(figsize=(4 * min(COLUMNS, len(panels)), 3 * height + 0.6), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    for index, metric in enumerate(panels, start=1):
        axes = figure.add_subplot(height, min(COLUMNS, len(panels)), index)
        name = f"eval/{metric}" if f"eval/{metric}" in found else metric
        for run in rows.values():
            steps = [row["step"] for row in run if name in row]
            marker = "o" if len(steps) == 1 else None  # a line through one point cannot be seen
            axes.plot(steps, [row[name] for row in run if name in row], linewidth=1.5, marker=marker)
        axes.set_title(PANELS[metric] + (" (held out)" if name != metric else ""), loc="left", fontsize="medium")
        axes.set_xlabel("training step")
        axes.grid(alpha=0.25)
    figure.legend(figure.axes[0].lines, list(rows), loc="outside upper left", ncols=2, frameon=False)
    try:
        figure.savefig(output)
    except (OSError, ValueError) as error:
        raise UserError(f"output: cannot write {output}: {error}") from error
    return output


def read_rows(run: Path) -> list[dict[str, float]]:
    """The rows of a run's metrics.jsonl; a last line that is still being written is left out.

    Raises:
        UserError: there is no such file, or a line of it is damaged.
    """
    try:
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    except OSError as error:
        raise UserError(f"runs: cannot read {run / 'metrics.jsonl'}: {error.strerror}") from error
    try:
        rows = [json.loads(line) for line in lines]
    except ValueError as error:
        raise UserError(f"runs: {run / 'metrics.jsonl'} holds a line that is not JSON: {error}") from error
    return [{name: math.nan if value is None else value for name, value in row.items()} for row in rows]
