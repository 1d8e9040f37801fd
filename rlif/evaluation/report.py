"""The tables and files of `rlif eval`."""

from __future__ import annotations

import math
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rlif.answers.advice import FEW_ANSWERED, how_to_get_ratings
from rlif.evaluation.completions import LABEL_FREE_TITLES, Completions
from rlif.evaluation.measure import Evaluation
from rlif.files.json_values import write_json
from rlif.files.jsonl import write_rows
from rlif.files.versions import versions
from rlif.metrics.calibration import ReliabilityBins
from rlif.metrics.selection import Mean
from rlif.plots.reliability import plot_reliability, plot_risk_coverage
from rlif.terminal import make_console


def write_evaluation(evaluation: Evaluation, completions: Completions, output_dir: Path) -> None:
    """Write eval.json, majority.jsonl, and the figures if there are gold answers to draw them with.

    majority.jsonl has the form of training data: each prompt with its most common answer, where any was stated.

    Raises:
        UserError: they cannot be written.
    """
    results = {"versions": versions(), **evaluation.to_json()}
    rows = [
        {"prompt": prompt, "answer": answer, "share": share}
        for prompt, (answer, share) in zip(completions.prompts, evaluation.majority_answers, strict=True)
    ]
    bins = {title: shown for title, shown in reliability_titles(evaluation).items() if shown is not None}
    write_json(output_dir / "eval.json", results)
    write_rows(output_dir / "majority.jsonl", rows)
    if bins:
        plot_reliability(bins, output_dir / "reliability.png")
    if evaluation.scores:
        curves = {name: quality.curve for name, quality in evaluation.scores.items()}
        plot_risk_coverage(curves, output_dir / "risk_coverage.png")


def reliability_titles(evaluation: Evaluation) -> dict[str, ReliabilityBins | None]:
    """Return the bins of every score, by what they show."""
    return {
        f"{name}, {'as it is' if quality.as_is else 'isotonic'}": quality.bins
        for name, quality in evaluation.scores.items()
    }


def print_tables(evaluation: Evaluation, console: Console | None = None) -> None:
    """Print what there is: selection and scores if prompts have gold answers, and what needs none."""
    console = console or make_console()
    size = f"{evaluation.prompts} prompts x {evaluation.num_generations} completions"
    if not evaluation.labelled:
        console.print(f"{size}, no gold answers: only what needs none is measured", highlight=False)
    elif evaluation.labelled < evaluation.prompts:
        console.print(f"{size}; accuracies are of the {evaluation.labelled} with a gold answer", highlight=False)
    else:
        console.print(size, highlight=False)
    _say_what_is_missing(evaluation, console)
    if evaluation.unread_answers:
        console.print(
            f"{evaluation.unread_answers} answers would take computer algebra too long, and were compared as text",
            highlight=False,
        )
    if evaluation.same_confidence is not None:
        value, share = evaluation.same_confidence
        console.print(
            f"{share:.0%} of the confidences that completions state are {value:g}: they tell nothing apart",
            highlight=False,
        )
    _say_what_confidence_is_missing(evaluation, console)
    _say_what_ratings_are_missing(evaluation, console)
    if evaluation.verifying is not None:
        console.print(
            f"verifications tell right completions from others with a balanced accuracy of {evaluation.verifying:.1%}",
            highlight=False,
        )
    tables = [label_free_table(evaluation)]
    if evaluation.selection:
        tables += [selection_table(evaluation), scores_table(evaluation)]
    for table in tables:
        console.print()
        console.print(table)


def _say_what_is_missing(evaluation: Evaluation, console: Console) -> None:
    """Say that answers are missing, what they end like, and what may help, where too few are there to be measured."""
    answered = evaluation.label_free["answered"].value
    if answered >= FEW_ANSWERED:
        return
    if evaluation.labelled and not evaluation.selection:
        sentence = "No completion states an answer: accuracy is not 0%, it is not measured, nor are votes"
    else:
        sentence = f"Only {answered:.1%} of the completions state an answer: the others count as wrong"
    advice = "" if evaluation.advice is None else f"; {evaluation.advice}"
    console.print(f"{sentence}{advice}.", highlight=False, markup=False, soft_wrap=True)
    for text in evaluation.unanswered:
        console.print(f"  without: {text or '(nothing)'}", highlight=False, markup=False, soft_wrap=True)


def _say_what_confidence_is_missing(evaluation: Evaluation, console: Console) -> None:
    """Say that completions do not state the confidence that they are asked for, and what may help, where too few do."""
    stated = evaluation.label_free.get("confidence_stated")
    share = 0.0 if stated is None else stated.value
    if evaluation.confidence_advice is None or share >= FEW_ANSWERED:
        return
    if stated is None:
        sentence = (
            "No completion states its confidence, for which the prompts name <confidence>: there is no such score"
        )
    else:
        sentence = f"Only {share:.1%} of the completions state their confidence: the others have the score 0"
    console.print(f"{sentence}; {evaluation.confidence_advice}.", highlight=False, markup=False, soft_wrap=True)


def _say_what_ratings_are_missing(evaluation: Evaluation, console: Console) -> None:
    """Say that verifications state no rating, what they end like, and what may help, where too few do."""
    rated = evaluation.label_free.get("rated")
    if rated is None or rated.value >= FEW_ANSWERED:
        return
    if rated.value == 0:
        sentence = "No verification states a rating: the score verification is 0 throughout and says nothing"
    else:
        sentence = f"Only {rated.value:.1%} of the verifications state a rating: the others call nothing right"
    advice = how_to_get_ratings(evaluation.verifications_finished)
    console.print(f"{sentence}; {advice}.", highlight=False, markup=False, soft_wrap=True)
    for text in evaluation.unrated:
        console.print(f"  without: {text or '(nothing)'}", highlight=False, markup=False, soft_wrap=True)


def label_free_table(evaluation: Evaluation) -> Table:
    """Means that need no gold answer."""
    table = Table("without labels", box=None, padding=(0, 2, 0, 0))
    table.add_column("mean", justify="right")
    for name, mean in evaluation.label_free.items():
        if name in LABEL_FREE_TITLES:
            table.add_row(LABEL_FREE_TITLES[name], percent(mean))
            if name == "answered":
                for tier, share in evaluation.tiers.items():
                    table.add_row(f"  by {tier}", f"{share:.1%}")
        else:
            table.add_row(escape(name), plus_minus(mean.value, mean.standard_error, ".4g", ".2g"))
    return table


def selection_table(evaluation: Evaluation) -> Table:
    """Accuracy by way of choosing."""
    table = Table("answer chosen by", box=None, padding=(0, 2, 0, 0))
    table.add_column("right, ± standard error", justify="right")
    for name, mean in evaluation.selection.items():
        oracle = " (oracle)" if name == f"pass@{evaluation.num_generations}" else ""
        table.add_row(escape(name.replace("/", ", ") + oracle), percent(mean))
    return table


def scores_table(evaluation: Evaluation) -> Table:
    """Discrimination and calibration by score."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("confidence score", overflow="fold")  # where there is too little room, a name has lines to spare
    # Of all completions, and within prompts; as they are, and after isotonic regression on other prompts. In two lines,
    # so that our own names have room in eighty columns.
    for heading in ("AUROC", "within", "AURC", "ECE", "Brier", "ECE\niso", "Brier\niso"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, quality in evaluation.scores.items():
        values = [quality.auroc, quality.auroc_within, quality.curve.area]
        values += [*(quality.as_is or (math.nan, math.nan)), *(quality.isotonic or (math.nan, math.nan))]
        table.add_row(escape(name), *("-" if math.isnan(value) else f"{value:.3f}" for value in values))
    return table


def percent(mean: Mean) -> str:
    """Return a share with its standard error."""
    return plus_minus(100 * mean.value, 100 * mean.standard_error, ".1f", ".1f") + " %"


def plus_minus(value: float, error: float, form: str, error_form: str) -> str:
    """A number with its standard error, if it has one."""
    return f"{value:{form}}" if math.isnan(error) else f"{value:{form}} ± {error:{error_form}}"
