"""What `rlif retry` prints, writes and draws."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from rich.console import Console
from rich.table import Table

from rlif.diagnosis.report import say
from rlif.files.json_values import write_json
from rlif.files.versions import versions
from rlif.metrics.bootstrap import Estimate
from rlif.plots.style import BLUE, GREEN, GREY, VERMILLION, in_percent, line_style, new_figure, save_figure, tidy_axes
from rlif.retry.discriminator import ACCEPTANCE, THRESHOLDS, Discriminator
from rlif.retry.measure import Retried
from rlif.retry.options import RetryConfig

RETRY_FILE, FIGURE = "retry.json", "retry.png"
# Scores named of a discriminator, those that count most.
NAMED = 3
# Where it would accept a smaller share of completions, a threshold is named at which it accepts so many.
FEW_ACCEPTED = 0.1


def show_discriminator(
    discriminator: Discriminator, prompts: Sequence[str], console: Console, *, threshold: float
) -> None:
    """Say what a discriminator goes by, how well it does on prompts that it was not fitted on, and if these are such.

    Args:
        discriminator: that is to judge.
        prompts: texts of the prompts whose attempts it judges.
        console: to print to.
        threshold: from which on it accepts.
    """
    weights = sorted(
        zip(discriminator.scores, discriminator.model.coefficients, strict=True), key=lambda item: -abs(item[1])
    )
    heaviest = ", ".join(f"{name} ({weight:+.2f})" for name, weight in weights[:NAMED])
    held_out, measured = discriminator.record.get("held_out"), ""
    if held_out is not None:
        measured = (
            f" On prompts that it was not fitted on: AUROC {held_out['auroc']:.3f}, Brier {held_out['brier']:.3f}."
            + acceptance(held_out, str(discriminator.record.get("labels")), threshold)
        )
    say(console, f"The discriminator goes by {len(weights)} scores, most by {heaviest}.{measured}")
    if seen := sum(prompt in discriminator.prompts for prompt in prompts):
        say(
            console,
            f"Warning: it was fitted on {seen} of these {len(prompts)} prompts, on which it looks better than it is. "
            "Fit it on others.",
        )


def acceptance(held_out: Mapping[str, Any], labels: str, threshold: float) -> str:
    """Say what share of completions it accepts at the threshold, and of too few, at which one it accepts more.

    Args:
        held_out: what the discriminator's record has of prompts that it was not fitted on.
        labels: that it was fitted by.
        threshold: from which on it accepts.
    """
    rows = list(zip(*(held_out[name] for name in ACCEPTANCE), strict=True))
    if not rows:  # nobody knows
        return ""
    kind = "are the majority's" if labels == "majority" else "are right"
    # The last one at most as high: in finer steps there is less to count.
    known = max(each for each in (*THRESHOLDS.tolist(), 1.0) if each <= threshold)
    said, accepted = f" From {known:g} on it accepts none of their stated answers", 0.0
    for each, share, precision in rows:
        if each == known:
            said, accepted = f" From {known:g} on it accepts {share:.1%} of their stated answers", share
            said += f", of which {precision:.1%} {kind}"
    if accepted < FEW_ACCEPTED and (more := [row for row in rows if row[1] >= FEW_ACCEPTED]):
        lower, share, precision = more[-1]
        said += f"; with a threshold of {lower:g} it would accept {share:.1%}, of which {precision:.1%} {kind}"
    return f"{said}."


def show(found: Retried, console: Console) -> None:
    """Print a table by round, and what it comes to in sentences."""
    table = Table(
        title=f"{found.prompts} prompts, attempt by attempt",
        box=None,
        padding=(0, 2, 0, 0),
        caption="right: of the attempts of that round. probability: their mean, by the discriminator. precision: right "
        "ones of the accepted. recall: accepted ones of the right. accuracy: of all prompts, if that round were the "
        "last."
        if found.labelled
        else None,
    )
    headers = ["round", "attempts", "probability", "accepted"]
    headers += ["right", "precision", "recall", "accuracy"] * bool(found.labelled)
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)
    for number, each in enumerate(found.rounds, start=1):
        cells = [str(number), str(each.attempts), _form(each.probability.value), _form(each.accepted.value)]
        if found.labelled:
            cells += [_form(one.value) for one in (each.right, each.precision, each.recall, each.accuracy)]
        table.add_row(*cells)
    console.print(table)
    for sentence in sentences(found):
        say(console, sentence)


def sentences(found: Retried) -> list[str]:
    """What was found, in words."""
    ended = f"{found.ends['accepted']:.1%} of the prompts ended with an accepted answer"
    if found.ends["too_long"]:
        ended += f"; {found.ends['too_long']:.1%} became too long for another attempt"
    said = [f"{ended}, after {found.attempts.value:.2f} attempts and {found.tokens.value:.0f} tokens a prompt."]
    if found.abstain:
        said.append(f"On {1 - found.ends['accepted']:.1%} it abstains.")
    if not found.labelled:
        return [*said, "Without gold answers nobody knows which are right."]
    if not math.isnan(found.precision.value):
        gain = found.gain
        chance = "" if gain.low > 0 or gain.high < 0 else "; chance would do as much"
        said.append(
            f"Of the accepted answers {_form(found.precision.value)} are right ({_interval(found.precision)}), "
            f"{100 * gain.value:+.1f} points against first attempts ({100 * gain.low:+.1f} to {100 * gain.high:+.1f}"
            f"{chance}). {_form(found.recall.value)} of the right attempts were accepted."
        )
    said.append(
        f"Right answers: {_form(found.first.value)} by one attempt, {_form(found.accuracy.value)} "
        f"({_interval(found.accuracy)}) in the end; {_form(found.any_right.value)} of the prompts had a right attempt."
    )
    return said


def write_retry(config: RetryConfig, found: Retried, output_dir: Path) -> None:
    """Write retry.json, and the figure if there are gold answers to draw it with.

    Raises:
        UserError: a file cannot be written.
    """
    settings = {
        name: getattr(config, name) for name in ("model", "data", "seed", "temperature", "threshold", "show_rejected")
    }
    write_json(output_dir / RETRY_FILE, {**settings, **found.to_json(), "made_with": versions()})
    if found.labelled:
        draw(found, config.threshold, output_dir / FIGURE)


def draw(found: Retried, threshold: float, path: Path) -> None:
    """Draw accuracy and acceptance by round, and risk against coverage.

    Raises:
        UserError: the file cannot be written.
    """
    figure = new_figure(11, 4.2)
    rounds, curves = figure.subplots(1, 2)
    numbers = np.arange(1, len(found.rounds) + 1)
    for name, color, label in (
        ("accuracy", BLUE, "answers right, of all prompts"),
        ("precision", GREEN, "accepted attempts that are right"),
        ("recall", VERMILLION, "right attempts that are accepted"),
    ):
        _draw_line(rounds, numbers, [getattr(each, name) for each in found.rounds], color, label)
    rounds.axhline(found.first.value, color=GREY, linewidth=1, label="one attempt")
    rounds.set_xticks(numbers)
    rounds.set_ylim(0, 1.02)
    in_percent(rounds.yaxis)
    rounds.set_xlabel("round")
    rounds.set_title(f"by round, accepted from a probability of {threshold:g} on", loc="left", fontsize=10)
    for index, (name, curve) in enumerate(found.curves.items()):
        width = 3 - 1.5 * index  # where one lies on the other both are seen
        curves.plot(
            curve.coverage, curve.risk, label=f"{name} ({curve.area:.3f})", linewidth=width, **line_style(index)
        )
    curves.set_xlim(0, 1)
    curves.set_ylim(bottom=0)
    in_percent(curves.xaxis)
    in_percent(curves.yaxis)
    curves.set_xlabel("coverage: answers kept, the most probable first")
    curves.set_title("risk: share wrong among them (area under the curve)", loc="left", fontsize=10)
    for axes in (rounds, curves):
        tidy_axes(axes)
        axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
    save_figure(figure, path)


def _draw_line(axes: Axes, x: Any, estimates: list[Estimate], color: str, label: str) -> None:
    value, low, high = ([getattr(each, name) for each in estimates] for name in ("value", "low", "high"))
    axes.fill_between(x, low, high, color=color, alpha=0.12, linewidth=0)
    axes.plot(x, value, "o-", color=color, linewidth=1.8, markersize=5, label=label)


def _interval(estimate: Estimate) -> str:
    return "" if math.isnan(estimate.value) else f"{estimate.low:.1%} to {estimate.high:.1%}"


def _form(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.1%}"
