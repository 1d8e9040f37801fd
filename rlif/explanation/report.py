"""What `rlif explain` prints, writes and draws."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.table import Table

from rlif.diagnosis.report import say
from rlif.explanation.measure import RIGHT, SIDE_EFFECTS, ScoreMeasures, centred, from_chance
from rlif.explanation.options import ExplainConfig
from rlif.files.json_values import write_json
from rlif.files.versions import versions
from rlif.metrics.bootstrap import Estimate
from rlif.metrics.ranks import midranks
from rlif.plots.style import BLUE, GREY, VERMILLION, new_figure, save_figure, tidy_axes, verbatim

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from rlif.explanation.measure import Explanation
    from rlif.explanation.samples import Samples

EXPLANATION_FILE, FIGURE = "explanation.json", "explanation.png"
# Mean nats of a completion below which two models are the same but for rounding.
NOTHING_MOVED = 1e-4


def show(explanation: Explanation, console: Console) -> None:
    """Print a table, and what it comes to in sentences."""
    labelled = explanation.accuracy is not None
    table = Table(
        title=f"What the training rewarded, {explanation.num_prompts} prompts x {explanation.num_generations} "
        "completions of each model",
        caption="preferred: of two completions of a prompt, how often the one with the higher score became the more "
        "likely one against the other. Correlations are within prompts. weight: in a regression on all scores."
        + (" right: how often a right completion was preferred to a wrong one that scores higher." if labelled else ""),
    )
    headers = ["score", "preferred", "95% interval", "Pearson", "Spearman", "Kendall", "weight"]
    # Where there is too little room a name goes on in the next line: of a part nobody could tell which it is.
    for header in headers + ["right"] * labelled:
        table.add_column(header, justify="left" if header == "score" else "right", overflow="fold")
    for name, found in explanation.scores.items():
        cells = [_form(found.concordance.value, "{:.1%}"), _interval(found.concordance, "{:.1%}")]
        cells += [
            _form(each.value, "{:+.2f}") for each in (found.pearson, found.spearman, found.kendall, found.coefficient)
        ]
        if labelled:
            cells.append("" if found.against_right is None else _form(found.against_right.value, "{:.1%}"))
        table.add_row(name, *cells)
    console.print(table)
    for sentence in sentences(explanation):
        say(console, sentence)


def sentences(explanation: Explanation) -> list[str]:
    """What was found, in words."""
    kl = explanation.kl
    found = [
        f"A completion of the tuned model is on average {kl.value:.3g} nats ({_interval(kl, '{:.3g}')}) more likely "
        "than it was: its divergence from the start model"
        + (", which is never below 0: so few completions hardly tell it from none." if kl.low < 0 else ".")
    ]
    if not abs(kl.value) > NOTHING_MOVED:
        return [*found, "That is nothing: there is no training to explain."]
    best = next((name for name in explanation.scores if name not in SIDE_EFFECTS), None)
    if best is None:
        return [
            *found,
            "No reward differs among the completions of two prompts or more, so that none can be told to explain the "
            "training; expected more data, or a larger num_generations.",
        ]
    measures = explanation.scores[best]
    by_chance = from_chance(measures.concordance) == 0
    if by_chance:
        found.append(f"None of the rewards compared explains the training. The nearest is {describe(best, measures)}")
    else:
        found.append(f"Of the rewards compared, {best} explains the training best. {describe(best, measures)}")
    if RIGHT in explanation.scores and best != RIGHT:
        found.append(describe(RIGHT, explanation.scores[RIGHT]))
    parted = explanation.parted.get(best, {})
    for name, share in parted.items():
        if by_chance or not overlap(measures.concordance, explanation.scores[name].concordance):
            continue
        if math.isnan(share.value):
            found.append(f"It cannot be told apart from {name}: they hardly ever part.")
        elif share.low <= 0.5 <= share.high:
            found.append(f"It cannot be told apart from {name}: where they part, the training sided with either.")
    if RIGHT in parted and not math.isnan(parted[RIGHT].value):
        share = parted[RIGHT]
        found.append(
            f"Where {best} and right answers part, the training sided with {best} in {share.value:.1%} "
            f"({_interval(share, '{:.1%}')})."
        )
    effects = [name for name in explanation.scores if name in SIDE_EFFECTS]
    if effects and from_chance(explanation.scores[effects[0]].concordance) > 0:
        found.append(f"A side effect: {describe(effects[0], explanation.scores[effects[0]])}")
    found.append(
        f"All scores together account for {_form(explanation.explained.value, '{:.0%}')} of the differences between "
        "completions of a prompt."
    )
    if apart := explanation.told_apart:
        shares = " and ".join(
            f"{_form(share.value, '{:.1%}')} ({_interval(share, '{:.1%}')}) by the {name}"
            for name, share in apart.items()
        )
        found.append(f"A reward learnt from both models' completions tells them apart on other prompts in {shares}.")
    if explanation.accuracy is not None:
        start, tuned = (explanation.accuracy[name] for name in ("start", "tuned"))
        found.append(f"Right answers: {start.value:.1%} before, {tuned.value:.1%} after.")
    found.append(
        "A training of few steps is far from the optimum of its reward: this is the direction that it took, by the "
        "completions that the two models make."
    )
    return found


def overlap(one: Estimate, other: Estimate) -> bool:
    """Whether two intervals have a number in common."""
    return one.low <= other.high and other.low <= one.high


def describe(name: str, measures: ScoreMeasures) -> str:
    """Return in a sentence what one score has to do with the training."""
    share = measures.concordance
    against = share.value < 0.5
    value, low, high = (1 - each if against else each for each in (share.value, share.low, share.high))
    low, high = sorted((low, high))
    way = "lower" if against else "higher"
    text = f"{name}: of two completions of a prompt, the one with {way} {name} was preferred in {value:.1%}"
    chance = "; chance would do as much" if low <= 0.5 <= high else ""
    return f"{text} ({low:.1%} to {high:.1%}{chance})."


def write_explanation(config: ExplainConfig, explanation: Explanation, samples: Samples, output_dir: Path) -> None:
    """Write explanation.json and the figure.

    Raises:
        UserError: a file cannot be written.
    """
    document = {
        "start": config.start,
        "tuned": config.tuned,
        "data": config.data,
        "seed": config.seed,
        "temperature": config.temperature,
        **explanation.to_json(),
        "made_with": versions(),
    }
    write_json(output_dir / EXPLANATION_FILE, document)
    draw(explanation, samples, output_dir / FIGURE)


def draw(explanation: Explanation, samples: Samples, path: Path) -> None:
    """Draw how often each score was preferred, and the implicit reward over the one that explains it best.

    Raises:
        UserError: the file cannot be written.
    """
    figure = new_figure(11, 4.5)
    bars, dots = figure.subplots(1, 2, width_ratios=(3, 2))
    names = list(explanation.scores)
    for place, name in enumerate(reversed(names)):
        share = explanation.scores[name].concordance
        color = VERMILLION if name == RIGHT else BLUE
        bars.plot([share.low, share.high], [place, place], color=color, linewidth=2)
        bars.plot(share.value, place, "o", color=color, markersize=6)
    bars.axvline(0.5, color=GREY, linewidth=1)
    bars.set_yticks(range(len(names)), [verbatim(name) for name in reversed(names)])
    bars.set_xlim(0, 1)
    bars.set_title("chance that the completion with the higher score was preferred", loc="left", fontsize=10)
    tidy_axes(bars)
    if names:
        _draw_best(dots, names[0], samples)
    tidy_axes(dots)
    save_figure(figure, path)


def _draw_best(axes: Axes, name: str, samples: Samples) -> None:
    values = samples.scores[name]
    ranks = np.stack([midranks(row) for row in np.nan_to_num(values)]) / values.shape[1]
    reward = centred(samples.implicit_reward, samples.implicit_reward)
    right = samples.scores[RIGHT]
    for part, color, label in ((right == 1, BLUE, "right"), (right == 0, VERMILLION, "wrong"),
                               (np.isnan(right), GREY, "no gold answer")):  # fmt: skip
        if part.any():
            axes.plot(ranks[part], reward[part], "o", color=color, markersize=2.5, alpha=0.4, label=label, mew=0)
    axes.set_xlabel(f"rank in {verbatim(name)} within the prompt")
    axes.set_title("implicit reward, nats from the prompt's mean", loc="left", fontsize=10)
    axes.legend(fontsize=8, frameon=False, markerscale=2)


def _interval(estimate: Estimate, form: str) -> str:
    return f"{_form(estimate.low, form)} to {_form(estimate.high, form)}"


def _form(value: float, form: str) -> str:
    return "" if math.isnan(value) else form.format(value)
