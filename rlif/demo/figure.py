"""Draw what training runs did, step by step, as one PNG with all runs in every panel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes

from rlif.plots.style import COLORS, in_percent, new_figure, over_steps, save_figure, tidy_axes

MetricRows = Sequence[Mapping[str, float]]
"""The rows of one run's metrics.jsonl."""

# What each reward is measured in; an axis of its own for every unit.
_REWARD_UNITS = {"verifiable": "share correct"}
_INTERNAL_REWARD_UNIT = "nats/token"


def best_evaluation(rows: MetricRows) -> Mapping[str, float]:
    """Return the first row with the highest `eval/accuracy`.

    Raises:
        ValueError: no row has one.
    """
    evaluated = [row for row in rows if "eval/accuracy" in row]
    if not evaluated:
        raise ValueError("rows: none has eval/accuracy, expected at least one evaluation")
    return max(evaluated, key=lambda row: row["eval/accuracy"])


def plot_runs(runs: Mapping[str, MetricRows], path: Path) -> None:
    """Draw accuracy, reward, entropy, length and base NLL against the step, and write them to `path` as a PNG.

    Accuracy, entropy, length and base NLL are those of the evaluations (held-out prompts), reward that of training. A
    star marks each run's best accuracy, and a dotted line the same step in the other panels.

    Args:
        runs: the rows of every run by the name of its reward, in the order of the legend.
        path: the PNG; its directory exists.

    Raises:
        ValueError: there is no run, or one without an evaluation.
    """
    if not runs:
        raise ValueError("runs: got none, expected at least one")
    best = {name: best_evaluation(rows) for name, rows in runs.items()}
    colors = {name: COLORS[index % len(COLORS)] for index, name in enumerate(runs)}

    figure = new_figure(13, 6.4)
    panels: dict[str, Axes] = figure.subplot_mosaic(
        [["accuracy", "reward", "entropy"], ["accuracy", "length", "nll"]], width_ratios=(1.5, 1, 1)
    )

    accuracy = panels["accuracy"]
    for name, rows in runs.items():
        step, value = best[name]["step"], best[name]["eval/accuracy"]
        _draw(accuracy, rows, "eval/accuracy", colors[name], label=f"{name}: best {value:.1%} at step {step:.0f}")
        accuracy.plot(step, value, "*", color=colors[name], markersize=17, markeredgecolor="white", zorder=5)
    accuracy.set_ylim(-0.02, 1.18)  # room for the legend above 100 %
    accuracy.set_yticks([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    in_percent(accuracy.yaxis)
    accuracy.set_ylabel("share of sampled answers that are right")
    accuracy.legend(title="trained on", loc="upper left", alignment="left", frameon=False)

    _draw_rewards(panels["reward"], runs, colors)
    for panel, metric, unit in (
        ("entropy", "eval/entropy", "nats/token"),
        ("length", "eval/completion_length", "tokens"),
        ("nll", "eval/base_nll", "nats/token, log scale"),
    ):
        for name, rows in runs.items():
            _draw(panels[panel], rows, metric, colors[name])
        panels[panel].set_ylabel(unit)
    # A collapsed policy surprises the start model many times as much as a good one; the dip before must stay visible.
    panels["nll"].set_yscale("log")

    titles = {
        "accuracy": "Held-out accuracy",
        "reward": "Reward in training",
        "entropy": "Policy entropy",
        "length": "Completion length",
        "nll": "Base NLL (start model)",
    }
    for key, axes in panels.items():
        axes.set_title(titles[key], loc="left", fontweight="bold")
        over_steps(axes)
        tidy_axes(axes, right=key == "reward")
        if key != "accuracy":
            for name, row in best.items():
                axes.axvline(row["step"], color=colors[name], linestyle=":", linewidth=1.2)
    save_figure(figure, path)


def _draw(axes: Axes, rows: MetricRows, metric: str, color: str, label: str | None = None) -> None:
    steps, values = _series(rows, metric)
    axes.plot(steps, values, "o-", color=color, label=label, markersize=3.5, linewidth=1.8)


def _draw_rewards(axes: Axes, runs: Mapping[str, MetricRows], colors: Mapping[str, str]) -> None:
    units = {name: _REWARD_UNITS.get(name, _INTERNAL_REWARD_UNIT) for name in runs}
    names_by_unit = {unit: [name for name in runs if units[name] == unit] for unit in dict.fromkeys(units.values())}
    for index, (unit, names) in enumerate(names_by_unit.items()):
        target = axes if index == 0 else axes.twinx()
        for name in names:
            steps, values = _series(runs[name], "reward")
            target.plot(steps, values, color=colors[name], linewidth=0.7, alpha=0.35)
            target.plot(steps, _moving_average(values), color=colors[name], linewidth=1.8)
        target.set_ylabel(f"{' and '.join(names)}, {unit}", color=colors[names[0]])
        tidy_axes(target, grid=False, right=True)


def _series(rows: MetricRows, metric: str) -> tuple[list[float], list[float]]:
    measured = [row for row in rows if metric in row]
    return [row["step"] for row in measured], [row[metric] for row in measured]


def _moving_average(values: Iterable[float], decay: float = 0.8) -> list[float]:
    """Exponential moving average with bias correction, so that it starts at the first value."""
    averages, total, weight = [], 0.0, 0.0
    for value in values:
        total, weight = decay * total + value, decay * weight + 1.0
        averages.append(total / weight)
    return averages
