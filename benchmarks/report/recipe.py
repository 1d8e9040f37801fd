"""The table, the verdict and the chart of the suite `recipe`."""

from __future__ import annotations

import math
import statistics
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.report.markdown import notes, table
from rlif.plots.style import COLORS, in_percent, new_figure, tidy_axes
from rlif.tasks.word_problems.problems import read_spec

Entry = dict[str, Any]
PANELS = {
    "eval/accuracy": "held-out accuracy",
    "eval/entropy": "entropy, nats a token",
    "eval/completion_length": "tokens a completion",
}


def recipe(results: dict[str, Any]) -> str:
    """A row for each reward, means over its seeds, and a verdict in words."""
    rewards = by_reward(results)
    samples = samples_of(results)
    said = {name: each["outlook"] for name, each in results.get("diagnosis", {}).get("rewards", {}).items()}
    rows, verdicts = [], []
    for reward, entries in rewards.items():
        cells = [" to ".join(f"{value:.1%}" for value in ends(entries, "eval/accuracy"))]
        best = [max(row["eval/accuracy"] for row in entry["evaluations"]) for entry in entries]
        cells.append(f"{statistics.fmean(best):.1%}")
        cells += [" to ".join(f"{value:.2f}" for value in ends(entries, "eval/entropy"))]
        cells += [" to ".join(f"{value:.0f}" for value in ends(entries, "eval/completion_length"))]
        minutes = statistics.fmean(entry["seconds"] for entry in entries) / 60
        rows.append([f"`{reward}`", str(len(entries)), said.get(reward, ""), *cells, f"{minutes:.1f}"])
        verdicts.append(f"- {verdict(reward, entries, samples)}")
    headings = ["trained on", "seeds", "diagnosed", "accuracy", "best", "entropy", "length", "minutes"]
    missing = [f"{name}: {reason}" for name, reason in results["missing"].items()]
    told = f"{results['model']}, {samples} held-out samples of each run before and after, means over seeds."
    if said:
        told += f" What `rlif diagnose` said before is from {results['diagnosis']['num_prompts']} training problems."
    return "\n\n".join([table(headings, rows), told, "\n".join(verdicts)]) + notes({}, missing, [])


def by_reward(results: dict[str, Any]) -> dict[str, list[Entry]]:
    """The runs of each reward."""
    found: dict[str, list[Entry]] = {}
    for entry in results["entries"]:
        found.setdefault(entry["reward"], []).append(entry)
    return found


def samples_of(results: dict[str, Any]) -> int:
    """Completions of one evaluation."""
    options = results["recipe"]
    prompts = read_spec(options["eval_data"], argument="eval_data", split=None, default_split="test").n
    return prompts * int(options.get("eval_generations", 4))


def ends(entries: list[Entry], name: str) -> tuple[float, float]:
    """Means over the runs of what the first and the last evaluation found."""
    first, last = (statistics.fmean(entry["evaluations"][place][name] for entry in entries) for place in (0, -1))
    return first, last


def verdict(reward: str, entries: list[Entry], samples: int) -> str:
    """Whether accuracy rose, fell, or stayed within what chance does to two samples of that size.

    The bound is 1.96 standard errors of the difference of two shares. That of the tuned models is of the samples of all
    seeds; of the start every seed draws the same samples, since an evaluation's random numbers are its own. Samples of
    one problem are alike, and so the bound is rather too narrow than too wide.
    """
    first, last = ends(entries, "eval/accuracy")
    bound = 1.96 * math.sqrt(first * (1 - first) / samples + last * (1 - last) / (samples * len(entries)))
    change = last - first
    what = "accuracy rose" if change > bound else "accuracy fell" if change < -bound else "no change beyond chance"
    return f"`{reward}`: {what} ({100 * change:+.1f} points, 95% of chance within ±{100 * bound:.1f})."


def recipe_chart(results: dict[str, Any]) -> Figure | None:
    """Accuracy, entropy and length over the steps, a colour for each reward, a thin line for each seed."""
    if not results["entries"]:
        return None
    figure = new_figure(12, 4)
    rewards = by_reward(results)
    for axes, (name, label) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        tidy_axes(axes)
        axes.set_xlabel("training step")
        axes.set_title(label, loc="left", fontsize=10)
        for color, (reward, entries) in zip(COLORS, rewards.items(), strict=False):
            _draw(axes, entries, name, color, reward)
        if name == "eval/accuracy":
            in_percent(axes.yaxis)
            axes.set_ylim(bottom=0)
            axes.legend(fontsize=8, frameon=False)
    return figure


def _draw(axes: Axes, entries: list[Entry], name: str, color: str, reward: str) -> None:
    lines = [{row["step"]: row[name] for row in entry["evaluations"]} for entry in entries]
    for line in lines:
        axes.plot(list(line), list(line.values()), color=color, linewidth=0.8, alpha=0.5)
    steps = sorted(set.intersection(*(set(line) for line in lines)))
    means = [statistics.fmean(line[step] for line in lines) for step in steps]
    axes.plot(steps, means, "o-", color=color, linewidth=2, markersize=4, label=reward)
