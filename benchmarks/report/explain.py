"""The table and the chart of the suite `explain`."""

from __future__ import annotations

import math
import statistics
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.report.markdown import notes, table
from benchmarks.report.seen import Agreement, Seen
from rlif.plots.style import COLORS, GREY, in_percent, new_figure, tidy_axes

Entry = dict[str, Any]
# What the chart shows of the scores.
DRAWN = ("self_certainty", "verifiable", "majority_vote", "length")


def explain(results: dict[str, Any]) -> str:
    """A row for each run and each of its checkpoints."""
    rows = []
    for run in results["entries"]:
        for found in run["steps"]:
            scores = found["scores"]
            against = (scores.get("self_certainty") or {}).get("against_right")
            rows.append(
                [
                    f"`{run['reward']}`",
                    str(run["seed"]),
                    str(found["step"]),
                    f"`{found['best']}`",
                    *(interval(scores[name]["concordance"]) if name in scores else "" for name in DRAWN[:2]),
                    interval(against),
                    f"{found['kl']['value']:.2f}",
                    f"{found['accuracy']['tuned']['value']:.1%}",
                    interval(found["told_apart"].get("text")),
                ]
            )
    headings = ["trained on", "seed", "step", "named", "self-certainty", "right answers", "where they part", "KL",
                "accuracy", "told apart"]  # fmt: skip
    told = (
        f"{results['num_prompts']} held-out problems, {results['num_generations']} completions of each model. *Named* "
        "is the score that explains the run best. Then, with 95% intervals: how often the completion that is surer, "
        "or right, was preferred to another one of its prompt; how often a right completion was preferred to a wrong "
        "one that is surer; the divergence from the start in nats a completion; and how often a reward learnt from "
        "the text of other prompts' completions tells the two models apart."
    )
    missing = [f"{name}: {reason}" for name, reason in results["missing"].items()]
    return f"{table(headings, rows)}\n\n{told}" + notes({}, missing, [])


def interval(estimate: dict[str, float | None] | None, form: str = ".0%") -> str:
    """Return an estimate with its interval, in percent if nothing else is said; nothing where there is none."""
    if estimate is None or estimate["value"] is None:
        return ""
    value, low, high = (estimate[name] for name in ("value", "low", "high"))
    return f"{value:{form}} ({low:{form}} to {high:{form}})"


def seen(results: dict[str, Any]) -> Seen:
    """Is each run's own reward the one that is named?"""
    shown, shares = [], []
    for reward in dict.fromkeys(run["reward"] for run in results["entries"]):
        runs = [run for run in results["entries"] if run["reward"] == reward]
        named = [found["best"] == reward for run in runs for found in run["steps"]]
        ends = [run["steps"][-1] for run in runs]
        own, at_end = [end["scores"][reward]["concordance"] for end in ends], [end["best"] == reward for end in ends]
        shares.append(statistics.fmean(named))
        shown.append(
            f"run on `{reward}`: named at {sum(named)} of {len(named)} checkpoints, at the end of {sum(at_end)} of "
            f"{len(at_end)} runs, and there followed in {', '.join(interval(each) for each in own)} of the pairs"
        )
    agrees: Agreement = "yes" if min(shares) == 1 else "partly" if max(shares) > 0.5 else "no"
    why = "the direction of training is read off both models' probabilities"
    if agrees != "yes":
        why = "of rewards that prefer nearly the same completions either is named: majority votes for right answers"
    return Seen("; ".join(shown), agrees, why)


def explain_chart(results: dict[str, Any]) -> Figure | None:
    """How often each score was preferred, over the checkpoints of the runs on each reward."""
    if not results["entries"]:
        return None
    rewards = list(dict.fromkeys(run["reward"] for run in results["entries"]))
    figure = new_figure(5.5 * len(rewards), 4)
    for axes, reward in zip(figure.subplots(1, len(rewards), squeeze=False)[0], rewards, strict=True):
        tidy_axes(axes)
        runs = [run for run in results["entries"] if run["reward"] == reward]
        for color, name in zip(COLORS, DRAWN, strict=False):
            _draw(axes, runs, name, color)
        axes.axhline(0.5, color=GREY, linewidth=1)
        axes.set_ylim(0, 1)
        in_percent(axes.yaxis)
        axes.set_xlabel("training step")
        axes.set_title(f"trained on {reward}", loc="left", fontsize=10)
    figure.axes[0].legend(fontsize=8, frameon=False)
    figure.suptitle("of two completions, how often the one with the higher score was preferred", fontsize=10)
    return figure


def _draw(axes: Axes, runs: list[Entry], name: str, color: str) -> None:
    lines = [
        {found["step"]: found["scores"].get(name, {}).get("concordance", {}).get("value") for found in run["steps"]}
        for run in runs
    ]
    lines = [{step: math.nan if value is None else value for step, value in line.items()} for line in lines]
    for line in lines:
        axes.plot(list(line), list(line.values()), color=color, linewidth=0.8, alpha=0.5)
    steps = list(lines[0])
    means = [statistics.fmean(line[step] for line in lines) for step in steps]
    axes.plot(steps, means, "o-", color=color, linewidth=2, markersize=4, label=name)
