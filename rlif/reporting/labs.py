"""What the page says of a lab: its findings, how the guard did, whether the diagnosis came true, and its trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlif.errors import UserError
from rlif.files.json_values import read_json
from rlif.files.jsonl import check_metrics, read_metrics
from rlif.lab.figures import REWARD_COLORS
from rlif.lab.findings import TrialResult, course, series
from rlif.lab.plan import start_name
from rlif.reporting.charts import Chart, Line
from rlif.reporting.pictures import Picture, pictures
from rlif.reporting.run_files import METRICS

LAB_FILE = "lab.json"
# The figures that the lab has drawn and the page shows as they are, each with what it is.
FIGURES = {
    "mixes.png": "Gain against the entropy of the start model",
    "confidence.png": "Format, doubt and confidence beside accuracy on the base model",
    "reliability.png": "Reliability of the mean token probability",
    "guard.png": "Every trial's accuracy at the start, at best, at the guard's choice and at the end",
}


@dataclass(frozen=True)
class LabView:
    """Everything that the page says of one lab."""

    path: Path
    state: str
    versions: str | None
    findings: list[dict[str, str]]
    """title, claim, seen and agreement."""
    rules: list[list[str]]
    """Of each rule its name, and in points how far below the best it ends on average and at worst, and its gain."""
    pairs: list[list[str]]
    """Of each pair of start model and reward: both, the verdict, the gains with and without the guard, came true."""
    trials: list[list[str]]
    """Start model, reward and seed; accuracy at the start, at the guard's choice, with its step, and at the end."""
    charts: list[tuple[str, list[Chart]]]
    """Of each start model a panel for each of a few metrics."""
    rewards: list[str]
    """Named in the charts, by the number of their colour."""
    figures: list[Picture]
    running: list[tuple[str, int]]
    """Of a lab without a report: each trial so far, and its step."""


def is_lab(path: Path) -> bool:
    """Tell whether a directory is that of a lab, finished or not."""
    return (path / LAB_FILE).is_file() or ((path / "starts").is_dir() and (path / "runs").is_dir())


def view_lab(path: Path) -> LabView:
    """Put together what the page says of a lab.

    Raises:
        UserError: its files are damaged.
    """
    if not (path / LAB_FILE).is_file():
        trials = [each for each in sorted((path / "runs").iterdir()) if (each / METRICS).is_file()]
        rows = [(each.name, read_metrics(each / METRICS, argument="runs", growing=True)) for each in trials]
        running = [(name, int(found[-1]["step"])) for name, found in rows if found]
        state = f"Not finished: {len(running)} trials have begun. rlif lab --resume goes on with it."
        return LabView(path, state, None, [], [], [], [], [], [], [], running)
    summary = read_json(path / LAB_FILE, argument="runs")
    try:
        return _view(path, summary)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"runs: {path / LAB_FILE} is damaged ({type(error).__name__}: {error}); expected what `rlif lab` writes"
        ) from error


def _view(path: Path, summary: dict[str, Any]) -> LabView:
    results: list[TrialResult] = summary["trials"]
    for each in results:
        check_metrics(each["rows"], path / LAB_FILE, argument="runs")
    size = summary["size"]
    quick = " in its quick form, whose findings are but hints" if summary["quick"] else ""
    state = f"Finished{quick}: {len(results)} trials of {int(size['max_steps'])} steps."
    rewards = [reward for reward in REWARD_COLORS if any(each["reward"] == reward for each in results)]
    return LabView(
        path=path,
        state=state,
        versions=str(summary["versions"]),
        findings=[
            {key: str(each[key]) for key in ("title", "claim", "seen", "agreement")} for each in summary["findings"]
        ],
        rules=[
            [
                str(each["rule"]),
                f"{100 * each['regret']:.1f}",
                f"{100 * each['worst']:.1f}",
                f"{100 * each['gain']:+.1f}",
            ]
            for each in summary["guard_rules"]
        ],
        pairs=[_pair(each) for each in summary["pairs"]],
        trials=[_trial(each) for each in results],
        charts=_charts(results, rewards),
        rewards=rewards,
        figures=pictures(path, FIGURES),
        running=[],
    )


def _pair(each: dict[str, Any]) -> list[str]:
    came_true = "yes" if each["verdict"] == each["outcome"] else f"no: {each['outcome']}"
    return [
        str(each["start"]), str(each["reward"]), str(each["verdict"]), f"{100 * each['gain']:+.1f}",
        f"{100 * each['end']:+.1f}", came_true,
    ]  # fmt: skip


def _trial(each: TrialResult) -> list[str]:
    accuracy = course(each)
    return [
        start_name(each["ratio"]), str(each["reward"]), str(int(each["seed"])), f"{accuracy.start:.1%}",
        f"{accuracy.guarded:.1%}", str(int(each["guard_step"])), f"{accuracy.last:.1%}",
    ]  # fmt: skip


def _charts(results: Sequence[TrialResult], rewards: Sequence[str]) -> list[tuple[str, list[Chart]]]:
    """Of each start model its metrics by step, a line for each reward: the mean over seeds."""
    panels = {"eval/accuracy": "Held-out accuracy", "eval/entropy": "Entropy, nats a token"}
    panels |= {"eval/base_nll": "Start model's NLL, nats a token"}
    found = []
    for ratio in sorted({each["ratio"] for each in results}):
        charts = []
        for metric, title in panels.items():
            lines = []
            for color, reward in enumerate(rewards):
                curves = [
                    series(each, metric) for each in results if (each["ratio"], each["reward"]) == (ratio, reward)
                ]
                steps = sorted(set(curves[0]).intersection(*curves)) if curves else []
                values = [float(np.mean([curve[step] for curve in curves])) for step in steps]
                lines.append(Line(reward, steps, values, color))
            charts.append(Chart(title, [line for line in lines if line.steps], percent=metric == "eval/accuracy"))
        found.append((start_name(ratio), [chart for chart in charts if chart.svg()]))
    return found
