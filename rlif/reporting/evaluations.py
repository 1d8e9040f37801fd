"""What the page says of one evaluation: how often each way of choosing is right, what each score knows, completions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlif.answers.advice import FEW_ANSWERED
from rlif.errors import UserError
from rlif.evaluation.completions import ALL_SCORES, LABEL_FREE_TITLES
from rlif.evaluation.extremes import End
from rlif.files.json_values import with_nan
from rlif.reporting.completions import Shown, without_colours
from rlif.reporting.evaluation_files import RESULTS, EvaluationFiles
from rlif.reporting.intervals import Interval
from rlif.reporting.pictures import Picture, pictures

# The ways of choosing, each with the beginnings of their names in eval.json.
WAYS = {
    "One sample": ("accuracy@", "average@"),
    "Votes": ("majority@", "weighted-majority/", "borda-"),
    "The sample with the highest score": ("best-of-",),
    "Any of the samples, if one could know which": ("pass@",),
}
HEADINGS = {
    End(False, True): "Sure and wrong",
    End(True, True): "Sure and right",
    End(False, False): "Unsure and wrong",
    End(True, False): "Unsure and right",
    End(None, True): "Surest, without a gold answer",
    End(None, False): "Least sure, without a gold answer",
}
FIGURES = {
    "risk_coverage.png": "Risk against coverage: the share wrong among the completions that are kept, the surest first",
    "reliability.png": "Reliability: the share right among completions of about the same confidence",
}


@dataclass(frozen=True)
class EvaluationView:
    """Everything that the page says of one evaluation."""

    files: EvaluationFiles
    state: str
    warnings: list[str]
    ways: list[tuple[str, list[Interval]]]
    """How often each way of choosing is right, by kind of way."""
    label_free: list[tuple[str, str]]
    """Means that need no gold answer."""
    scores: list[list[str]]
    """Of each score, that with the highest AUROC first: its name, AUROC, the same within prompts, AURC, and ECE and
    Brier score, as it is and isotonic."""
    figures: list[Picture]
    ends: list[tuple[str, list[Shown]]]
    """Completions by kind, the most extreme first."""
    note: str | None
    """Why there are no completions, or why they have no colours."""
    facts: list[tuple[str, str]]
    changed: list[tuple[str, str]]
    """Options that are not at their defaults."""


def view_evaluation(files: EvaluationFiles) -> EvaluationView:
    """Put together what the page says of an evaluation.

    Raises:
        UserError: its files are damaged.
    """
    try:
        results = _Results.of(files.results)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"runs: {files.path / RESULTS} is damaged ({type(error).__name__}: {error}); expected what `rlif eval` "
            "writes"
        ) from error
    found = [each for shown in files.ends.values() for each in shown]
    return EvaluationView(
        files=files,
        state=_state(files, results),
        warnings=results.warnings,
        ways=results.ways,
        label_free=results.label_free,
        scores=results.scores,
        figures=pictures(files.path, FIGURES),
        ends=[(title, files.ends[end]) for end, title in HEADINGS.items() if end in files.ends],
        note=None if files.results is None else files.note or without_colours(found, "evaluation"),
        facts=_facts(files),
        changed=files.record.changed(),
    )


def side_by_side(views: Sequence[EvaluationView]) -> list[tuple[str, list[str]]]:
    """Return a row for each way of choosing that any evaluation has, with how often it is right in each."""
    table: dict[str, list[str]] = {}
    for column, view in enumerate(views):
        for each in (interval for _, intervals in view.ways for interval in intervals):
            table.setdefault(each.name, ["—"] * len(views))[column] = each.words
    return list(table.items())


@dataclass(frozen=True)
class _Results:
    """What eval.json says, as the page shows it."""

    size: str
    warnings: list[str]
    ways: list[tuple[str, list[Interval]]]
    label_free: list[tuple[str, str]]
    scores: list[list[str]]

    @classmethod
    def of(cls, results: Mapping[str, Any] | None) -> _Results:
        """Raise what looking up and formatting raise where something else is in the file."""
        if results is None:
            return cls("", [], [], [], [])
        prompts, count, labelled = (int(results[name]) for name in ("prompts", "num_generations", "labelled"))
        size = f"{prompts} prompts x {count} completions"
        if not labelled:
            size += ", no gold answers: only what needs none is measured"
        elif labelled < prompts:
            size += f"; accuracies are of the {labelled} prompts with a gold answer"
        return cls(
            size=size,
            warnings=_warnings(results, labelled),
            ways=_ways(results["selection"], labelled),
            label_free=_label_free(results),
            scores=[_score(str(name), quality) for name, quality in sorted(results["scores"].items(), key=_auroc)],
        )


def _state(files: EvaluationFiles, results: _Results) -> str:
    if files.results is not None:
        return f"Finished: {results.size}."
    so_far = f"{files.sampled} prompts have their completions so far."
    if files.is_running:
        return f"Still sampling: {so_far}"
    return f"Not finished: {so_far} rlif eval --resume goes on with it."


def _warnings(results: Mapping[str, Any], labelled: int) -> list[str]:
    answered, warnings = float(results["label_free"]["answered"]["value"]), []
    if labelled and not results["selection"]:
        warnings.append("No completion states an answer: accuracy is not 0%, it is not measured, nor are votes.")
    elif answered < FEW_ANSWERED:
        warnings.append(f"Only {answered:.1%} of the completions state an answer: the others count as wrong.")
    return warnings


def _ways(selection: Mapping[str, Any], prompts: int) -> list[tuple[str, list[Interval]]]:
    """Ways of choosing by kind; of best-of-N the best score comes first, since their order means nothing."""
    majority = [name for name in selection if name.startswith("majority@")]
    mark = float(selection[majority[-1]]["value"]) if majority else None
    ways = []
    for title, beginnings in WAYS.items():
        intervals = [
            Interval.of(name.replace("/", ", "), **with_nan(mean), prompts=prompts, mark=mark)
            for name, mean in selection.items()
            if name.startswith(beginnings)
        ]
        if beginnings == ("best-of-",):
            intervals.sort(key=lambda each: -each.value)
        if intervals:
            ways.append((title, intervals))
    return ways


def _label_free(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for name, mean in results["label_free"].items():
        value, error = (math.nan if mean[key] is None else float(mean[key]) for key in ("value", "standard_error"))
        if name in LABEL_FREE_TITLES:
            rows.append((LABEL_FREE_TITLES[name], f"{value:.1%}" + ("" if math.isnan(error) else f" ± {error:.1%}")))
        else:
            rows.append((str(name), f"{value:.4g}" + ("" if math.isnan(error) else f" ± {error:.2g}")))
        if name == "answered":
            rows += [(f"by {tier}", f"{float(share):.1%}") for tier, share in results["tiers"].items()]
    return rows


def _auroc(item: tuple[str, Mapping[str, Any]]) -> float:
    """Sorts scores: those that know most come first, and those of which nobody knows it last."""
    known = item[1]["auroc"]
    return 1.0 if known is None else -float(known)


def _score(name: str, quality: Mapping[str, Any]) -> list[str]:
    numbers = [quality["auroc"], quality["auroc_within"], quality["aurc"]]
    for kind in ("as_is", "isotonic"):
        numbers += [None, None] if quality[kind] is None else [quality[kind]["ece"], quality[kind]["brier"]]
    title = f"{name} (fitted on the gold answers of other prompts)" if name == ALL_SCORES else name
    return [title, *("—" if number is None else f"{float(number):.3f}" for number in numbers)]


def _facts(files: EvaluationFiles) -> list[tuple[str, str]]:
    """What was evaluated: what a reader asks first."""
    record = files.record
    if not record.options:
        return [("Record", "The directory has no config.yaml, so that nothing says what was evaluated.")]
    option = record.option
    if option("completions") is not None:
        facts = [("Completions", str(option("completions")))]
    else:
        truncated = "".join(
            f", {name} {option(name):g}" for name in ("top_k", "top_p") if option(name) not in (None, 0, 1)
        )
        facts = [
            ("Model", str(option("model"))),
            ("Prompts", str(option("data"))),
            (
                "Sampling",
                f"{option('num_generations')} completions of at most {option('max_completion_length')} tokens each, at "
                f"temperature {option('temperature'):g}{truncated}, seed {option('seed')}",
            ),
        ]
    facts.append(("Answers", f"{option('answer_style') or 'strict'} reading"))
    if record.versions:
        facts.append(("Versions", record.versions))
    return facts
