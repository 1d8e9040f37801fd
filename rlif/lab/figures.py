"""The report's figures: what happened in training, in the form of the paper's, and how the guard did."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from rlif.lab.findings import TrialResult, course, select, series
from rlif.lab.plan import BASELINE_REWARD, RATIOS, start_name
from rlif.plots.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    SKY,
    VERMILLION,
    in_percent,
    legend_above,
    new_figure,
    over_steps,
    save_figure,
    tidy_axes,
)
from rlif.rewards.registry import INTERNAL

REWARD_COLORS = dict(zip((*INTERNAL, BASELINE_REWARD), (VERMILLION, ORANGE, BLUE, SKY, GREEN), strict=True))
TRIAL_PANELS = {
    "eval/accuracy": "held-out accuracy",
    "reward": "reward, from its lowest to its highest",
    "eval/entropy": "entropy, nats a token",
    "eval/completion_length": "length, tokens",
    "eval/base_nll": "start model's NLL, nats a token",
}


def draw_all(results: Sequence[TrialResult], directory: Path) -> list[str]:
    """Draw every figure that these trials allow into the directory, and return the files' names."""
    drawn = []
    for name, draw in (
        ("training.png", draw_training),
        ("guard.png", draw_guard),
        ("mixes.png", draw_mixes),
        ("confidence.png", draw_confidence),
    ):
        draw(results, directory / name)
        drawn.append(name)
    return drawn


def draw_training(results: Sequence[TrialResult], path: Path) -> None:
    """Accuracy, reward, entropy, length and base NLL against the step: a row for each end, a line for each reward.

    Lines are means over seeds, bands their range; a dot marks where the guard stops, as a mean too.
    """
    ratios = [ratio for ratio in (0.0, 1.0) if select(results, ratio)]
    figure, axes = _subplots(len(ratios), len(TRIAL_PANELS), (3.3 * len(TRIAL_PANELS), 3.1 * len(ratios) + 0.5))
    for row, ratio in enumerate(ratios):
        for column, (metric, label) in enumerate(TRIAL_PANELS.items()):
            panel = axes[row][column]
            for reward, color in REWARD_COLORS.items():
                trials = select(results, ratio, [reward])
                if not trials:
                    continue
                curves = [_curve(each, metric) for each in trials]
                steps = list(curves[0])
                values = np.array([[curve[step] for step in steps] for curve in curves])
                panel.plot(steps, values.mean(axis=0), color=color, linewidth=1.8, label=reward)
                panel.fill_between(steps, values.min(axis=0), values.max(axis=0), color=color, alpha=0.18, linewidth=0)
                if metric == "eval/accuracy" and reward != BASELINE_REWARD:
                    kept = np.mean([[each["guard_step"], course(each).guarded] for each in trials], axis=0)
                    panel.plot(*kept, "o", color=color, markersize=8, markeredgecolor="black", zorder=5)
            if metric == "eval/accuracy":
                panel.set_ylim(0, 1)
                in_percent(panel.yaxis)
            if metric == "eval/base_nll":
                panel.set_yscale("log")
                panel.yaxis.set_major_formatter("{x:g}")
                panel.yaxis.set_minor_formatter(NullFormatter())
            panel.set_title(f"{start_name(ratio)}: {label}", loc="left", fontsize="medium")
            over_steps(panel)
    legend_above(figure, axes[0][0])
    figure.text(0.995, 0.985, "dot: the guard's choice; band: range over seeds", ha="right", va="top", fontsize="small")
    save_figure(figure, path)


def draw_guard(results: Sequence[TrialResult], path: Path) -> None:
    """Every internal trial's accuracy at the start, at best in hindsight, where the guard stops, and at the end."""
    trials = select(results)
    trials = sorted(trials, key=lambda each: (each["ratio"], INTERNAL.index(each["reward"]), each["seed"]))
    figure, ((panel,),) = _subplots(1, 1, (8.5, 0.19 * len(trials) + 1.5))
    places = range(len(trials))
    courses = [course(each) for each in trials]
    for place, each in zip(places, courses, strict=True):
        panel.plot([each.last, each.peak], [place, place], color="0.85", linewidth=3, zorder=1)
    marks = (
        ("last", "X", VERMILLION, "last step: no guard"),
        ("start", "|", "black", "start model"),
        ("peak", "D", GREY, "best checkpoint, in hindsight"),
        ("guarded", "o", BLUE, "the guard's choice, without labels"),
    )
    for order, (name, marker, color, label) in enumerate(marks):
        values = [getattr(each, name) for each in courses]
        panel.scatter(values, list(places), marker=marker, color=color, s=34, label=label, zorder=2 + order)
    panel.set_yticks(
        list(places),
        [f"{start_name(each['ratio'])}, {each['reward']}, seed {each['seed']}" for each in trials],
        fontsize="x-small",
    )
    panel.invert_yaxis()
    panel.set_xlim(-0.02, 1)
    in_percent(panel.xaxis)
    panel.set_xlabel("held-out accuracy")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    save_figure(figure, path)


def draw_mixes(results: Sequence[TrialResult], path: Path) -> None:
    """Gain against the entropy at the start, from the base to the instruct-like model."""
    entropies = {
        start_name(ratio): float(np.mean([series(each, "eval/entropy")[0] for each in trials]))
        for ratio in RATIOS
        if (trials := select(results, ratio))
    }
    figure, (panels,) = _subplots(1, 2, (10, 4.1))
    for panel, title, name in zip(
        panels, ("gain at best, points", "change at the last step, points"), ("peak", "last"), strict=True
    ):
        for reward in INTERNAL:
            found = []
            for ratio in RATIOS:
                if trials := select(results, ratio, [reward]):
                    changes = [100 * (getattr(course(each), name) - course(each).start) for each in trials]
                    found.append((entropies[start_name(ratio)], float(np.mean(changes)), min(changes), max(changes)))
            if found:
                x, y, low, high = np.array(found).T
                color = REWARD_COLORS[reward]
                panel.errorbar(x, y, (y - low, high - y), fmt="o-", color=color, capsize=3, label=reward)
        panel.axhline(0, color="black", linewidth=0.8)
        panel.set_xscale("log")
        panel.set_xlabel("entropy of the start model, nats a token (log scale)")
        panel.set_ylabel(title)
        names = panel.secondary_xaxis("top")
        names.set_xticks(list(entropies.values()), list(entropies), fontsize="small")
        names.minorticks_off()
    legend_above(figure, panels[0])
    save_figure(figure, path)


def draw_confidence(results: Sequence[TrialResult], path: Path) -> None:
    """Format, doubt and confidence beside accuracy on the base: at the start, where the guard stops, at the end."""
    rewards = [reward for reward in INTERNAL if select(results, 0.0, [reward])]
    figure, axes = _subplots(1, len(rewards), (3.4 * len(rewards), 3.6))
    names = ("start", "guarded", "last")
    bars = {
        "parsed": ("answer stated", GREY),
        "doubt": ("mark of doubt", ORANGE),
        "probability": ("token probability", BLUE),
        "accuracy": ("right", GREEN),
    }
    for panel, reward in zip(axes[0], rewards, strict=True):
        trials = select(results, 0.0, [reward])
        for index, (key, (label, color)) in enumerate(bars.items()):
            heights = [float(np.mean([each[key][name] for each in trials])) for name in names]
            panel.bar(np.arange(len(names)) + 0.2 * (index - 1.5), heights, 0.2, color=color, label=label)
        panel.set_xticks(range(len(names)), ["start", "guard's choice", "last step"])
        panel.set_ylim(0, 1.02)
        in_percent(panel.yaxis)
        panel.set_title(reward, loc="left", fontsize="medium")
    legend_above(figure, axes[0][0])
    save_figure(figure, path)


def _curve(result: TrialResult, metric: str) -> dict[int, float]:
    """A metric by step; of the reward, whose units differ, means of five steps, from 0 (lowest) to 1 (highest)."""
    values = series(result, metric)
    if metric != "reward":
        return values
    smooth = np.convolve(list(values.values()), np.full(5, 0.2), mode="valid")
    scale = max(float(np.ptp(smooth)), 1e-12)
    return dict(zip(list(values)[2:-2], ((smooth - smooth.min()) / scale).tolist(), strict=True))


def _subplots(rows: int, columns: int, size: tuple[float, float]) -> tuple[Figure, list[list[Axes]]]:
    figure = new_figure(*size)
    axes = figure.subplots(rows, columns, squeeze=False)
    for panel in axes.flat:
        tidy_axes(panel)
    return figure, axes.tolist()
