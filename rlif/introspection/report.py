"""What `rlif introspect` prints, writes and draws."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from rich.console import Console
from rich.table import Table

from rlif.diagnosis.report import say
from rlif.files.json_values import write_json
from rlif.files.versions import versions
from rlif.introspection.measure import Measured
from rlif.introspection.options import IntrospectConfig
from rlif.metrics.bootstrap import Estimate
from rlif.plots.style import BLUE, GREEN, GREY, VERMILLION, in_percent, new_figure, save_figure, tidy_axes

REPORT_FILE, FIGURE = "introspect.json", "introspect.png"
# Columns of the table by turn: heading and measure.
COLUMNS = (
    ("right", "right"),
    ("wrong to right", "gained"),
    ("right to wrong", "lost"),
    ("same answer", "same"),
    ("majority", "majority"),
    ("of samples", "samples_majority"),
    ("any right", "any_right"),
    ("of samples", "samples_any_right"),
)


def show(found: Measured, console: Console) -> None:
    """Print a table by turn of each model, and what it comes to in sentences."""
    for name, measures in found.models.items():
        table = Table(
            title=f"{name} model, {found.prompts} prompts, turn by turn",
            box=None,
            padding=(0, 2, 0, 0),
            caption="right: of all prompts, after that turn. majority: of all turns so far, and of as many independent "
            "samples. any right: among them; with an oracle one stops there.",
        )
        for header in ("turn", *(heading for heading, _ in COLUMNS)):
            table.add_column(header, justify="right")
        for turn in range(len(measures["right"])):
            table.add_row(str(turn + 1), *(_form(measures[measure][turn].value) for _, measure in COLUMNS))
        console.print(table)
    for sentence in sentences(found):
        say(console, sentence)


def sentences(found: Measured) -> list[str]:
    """What was found, in words."""
    said = []
    for name, measures in found.models.items():
        tokens, with_oracle, of_samples = (
            measures[each][0].value for each in ("tokens", "tokens_with_oracle", "samples_tokens")
        )
        said.append(
            f"{name} model: {_differences(found.compared[name])}. Tokens for a prompt: {tokens:.0f} in turns, "
            f"{with_oracle:.0f} with an oracle, {of_samples:.0f} in samples."
        )
        missing = 1 - found.attempts[name][-1] / found.prompts
        if missing:
            said.append(f"{missing:.1%} of the prompts became too long for the last turn.")
    if (between := found.compared.get("tuned less start")) is not None:
        said.append(f"tuned less start: {_differences(between)}.")
    return said


def write_report(config: IntrospectConfig, found: Measured, output_dir: Path) -> None:
    """Write introspect.json and the figure.

    Raises:
        UserError: a file cannot be written.
    """
    names = ("model", "data", "eval_data", "labels", "iterations", "turns", "window", "feedback", "temperature", "seed")
    settings = {name: getattr(config, name) for name in names}
    write_json(output_dir / REPORT_FILE, {**settings, **found.to_json(), "made_with": versions()})
    draw(found, output_dir / FIGURE)


def draw(found: Measured, path: Path) -> None:
    """Draw accuracy by turn, beside that of as many samples, and how many answers each turn changed.

    Raises:
        UserError: the file cannot be written.
    """
    figure = new_figure(11, 4.4)
    accuracy, changes = figure.subplots(1, 2)
    for name, measures in found.models.items():
        # Where there are two models the start is dashed, so that one sees what the training changed.
        is_start = name == "start" and len(found.models) > 1
        line = "--" if is_start else "-"
        turns = np.arange(1, len(measures["right"]) + 1)
        for measure, color, label in (
            ("right", VERMILLION, "attempt of the turn"),
            ("majority", BLUE, "majority of the turns"),
            ("samples_majority", GREY, "majority of as many samples"),
        ):
            _draw_line(accuracy, turns, measures[measure], color, line, f"{label}, {name}", filled=not is_start)
        for measure, color, label in (("gained", GREEN, "wrong to right"), ("lost", VERMILLION, "right to wrong")):
            _draw_line(changes, turns[1:], measures[measure][1:], color, line, f"{label}, {name}", filled=not is_start)
    accuracy.set_ylim(0, 1.02)
    accuracy.set_title("right answers, of all prompts", loc="left", fontsize=10)
    changes.set_ylim(bottom=0)
    changes.set_title("answers that a turn changed, of all prompts", loc="left", fontsize=10)
    for axes in (accuracy, changes):
        in_percent(axes.yaxis)
        axes.set_xticks(turns)
        axes.set_xlim(0.8, len(turns) + 0.2)
        axes.set_xlabel("turn")
        tidy_axes(axes)
        axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, handlelength=4)
    save_figure(figure, path)


def _draw_line(
    axes: Axes, turns: Any, estimates: list[Estimate], color: str, line: str, label: str, *, filled: bool
) -> None:
    value, low, high = ([getattr(each, name) for each in estimates] for name in ("value", "low", "high"))
    if filled:
        axes.fill_between(turns, low, high, color=color, alpha=0.12, linewidth=0)
    axes.plot(turns, value, f"o{line}", color=color, linewidth=1.8, markersize=4, label=label)


def _differences(compared: dict[str, Estimate]) -> str:
    return ", ".join(
        f"{name} {100 * each.value:+.1f} points ({100 * each.low:+.1f} to {100 * each.high:+.1f})"
        for name, each in compared.items()
    )


def _form(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.1%}"
