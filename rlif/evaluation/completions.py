"""Completions with their scores, as one JSON line a prompt: written as they are sampled, read back to be measured.

    {"prompt": "…", "answer": "42", "completions": ["…#### 42", "…"], "scores": {"self_certainty": [9.1, 8.7]}}

`answer` is the gold one, or a list of those that are right, and may be missing. A file from elsewhere may have
`answers`, those that the completions state (null where one states none), in place of `completions`, and scores by any
names; higher means more confident.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlif.answers.advice import EXAMPLES, examples, how_to_get_answers, how_to_get_form
from rlif.answers.extract import AnswerStyle, stated_answer
from rlif.answers.gold import gold_answer, written_out
from rlif.answers.matching import GoldAnswer, is_right
from rlif.answers.tags import read_confidence, read_tags
from rlif.data.tables import read_file, shorten
from rlif.errors import UserError
from rlif.files.jsonl import Row
from rlif.metrics.selection import answer_clusters

COMPLETIONS_COLUMNS = ("prompt", "answer", "completions", "answers", "tokens", "finished", "scores", "verifications",
                       "ratings")  # fmt: skip
# Of the means that need no gold answer, those that are shares of completions; the others are of scores.
LABEL_FREE_TITLES = {
    "answered": "state an answer",
    "majority_share": "agree with the majority",
    "confidence_stated": "state their confidence",
    "verified": "short enough to be verified",
    "rated": "verifications that state a rating",
}
# The score of how many completions of the group state the same answer.
AGREEMENT = "agreement"
# That of all scores of a completion together, which takes labels of other prompts.
ALL_SCORES = "all_scores"
# What is measured of every file, under these names.
TAKEN_NAMES = (*LABEL_FREE_TITLES, AGREEMENT, ALL_SCORES)
# The score of the confidence that completions state themselves.
VERBALIZED = "verbalized"
# And of its mean over several analyses of one answer.
VERBALIZED_MEAN = "verbalized_mean"
# The score of the share of a completion's verifications that call it right.
VERIFICATION = "verification"


@dataclass(frozen=True)
class Completions:
    """N completions of each of P prompts, by their answers and their scores."""

    prompts: list[str]
    """P prompts."""
    golds: list[GoldAnswer | None]
    """P gold answers; None where there is none."""
    answers: list[list[str | None]]
    """P x N answers that the completions state; None where one states none."""
    scores: dict[str, NDArray[np.float64]]
    """(P, N) finite numbers each; higher is more confident."""
    tiers: Mapping[str, int] = field(default_factory=dict)
    """How many answers each rule of `rlif.answers.extract` found in the completions; none where a file has answers."""
    unanswered: tuple[str, ...] = ()
    """The ends of a few completions that state no answer, of different prompts."""
    advice: str | None = None
    """What may help where few state an answer; None where a file has answers in place of completions."""
    confidence_advice: str | None = None
    """What may help where few state their confidence; None where no prompt names the tags."""
    confidence_stated: NDArray[np.bool_] | None = None
    """(P, N) whether a completion states its confidence between tags; None if none does. Those that do not have the
    score 0."""
    verified: NDArray[np.bool_] | None = None
    """(P, N) whether a completion was short enough to be verified; None if none was to be. Those that were not have the
    score 0."""
    rated: NDArray[np.float64] | None = None
    """(P, N) the share of a completion's verifications that state a rating, NaN of one that was not verified; None if
    none was to be."""
    unrated: tuple[str, ...] = ()
    """The ends of a few verifications that state none, of different prompts."""
    verifications_finished: float | None = None
    """Share of the verifications that ended by themselves; None if there are none."""

    @property
    def num_generations(self) -> int:
        """N."""
        return len(self.answers[0])

    @cached_property
    def clusters(self) -> NDArray[np.int64]:
        """(P, N) the same number for the same answer of a prompt, -1 for none; see `rlif.metrics.selection`."""
        return answer_clusters(self.answers)

    @cached_property
    def agreement(self) -> NDArray[np.float64]:
        """(P, N) the share of a prompt's completions that state the same answer; 0 for one that states none."""
        shares = np.zeros(self.clusters.shape)
        for row, group in enumerate(self.clusters):
            stated = group >= 0
            shares[row, stated] = np.bincount(group[stated])[group[stated]] / len(group)
        return shares

    def labelled(self) -> Completions:
        """Those of the prompts that have a gold answer."""
        rows = [row for row, gold in enumerate(self.golds) if gold is not None]
        return Completions(
            [self.prompts[row] for row in rows],
            [self.golds[row] for row in rows],
            [self.answers[row] for row in rows],
            {name: values[rows] for name, values in self.scores.items()},
            advice=self.advice,
            confidence_stated=None if self.confidence_stated is None else self.confidence_stated[rows],
            verified=None if self.verified is None else self.verified[rows],
            rated=None if self.rated is None else self.rated[rows],
        )

    def correct(self) -> NDArray[np.bool_]:
        """(P, N) whether the stated answer equals the gold one."""
        return np.array(
            [
                [answer is not None and gold is not None and is_right(answer, gold) for answer in group]
                for gold, group in zip(self.golds, self.answers, strict=True)
            ]
        )


def completion_row(
    prompt: str, gold: GoldAnswer | None, texts: Sequence[str], scores: Mapping[str, Sequence[float]], **more: object
) -> Row:
    """Return one row of the file: a prompt with its completions."""
    kept = {name: rounded(values) for name, values in scores.items()}
    return {"prompt": prompt, "answer": gold, "completions": list(texts), **more, "scores": kept}


def rounded(scores: Iterable[float]) -> list[float]:
    """Return numbers with as many digits as float32 holds."""
    return [float(f"{score:.8g}") for score in scores]


def read_completions(
    path: Path,
    *,
    argument: str = "completions",
    answer_style: AnswerStyle = "strict",
    without_verifications: bool = False,
) -> Completions:
    """Read a file of completions.

    Args:
        path: of the file.
        argument: that it came by, for error messages.
        answer_style: where the answers of completions are looked for; those cut off (`finished` false) state none in
            prose.
        without_verifications: as if the file had none.

    Raises:
        UserError: no such file, a line that is not of the form above, a score that is not finite, a prompt with fewer
            or more completions than the first one's, or other scores; naming the line.
    """
    prompts: list[str] = []
    golds: list[GoldAnswer | None] = []
    answers: list[list[str | None]] = []
    found = _Found()
    scores: dict[str, list[list[float]]] = {}
    verifications = _Verifications()
    rows = read_file(path, argument=argument, columns=COMPLETIONS_COLUMNS)  # a Parquet file, too
    first = ""
    for where, values in rows:
        place = f"{argument}: {path}, {where}"
        if without_verifications:
            values = {name: each for name, each in values.items() if name not in ("verifications", "ratings")}
        group, line_scores = _answers(values, place, answer_style, found), _scores(values.get("scores"), place)
        count = len(answers[0]) if answers else len(group)
        if len(group) != count:
            raise UserError(f"{place}: got {len(group)} completions, expected {count} as in {first}")
        for name, numbers in line_scores.items():
            if len(numbers) != count:
                raise UserError(f"{place}: got {len(numbers)} scores `{name}`, expected {count}, one a completion")
        if answers and line_scores.keys() != scores.keys():
            came, expected = (", ".join(names) or "none" for names in (line_scores, scores))
            raise UserError(f"{place}: got the scores {came}, expected {expected} as in {first}")
        if "verifications" in values and VERIFICATION in line_scores:
            verifications.add(values["verifications"], count, place)
        elif VERIFICATION in line_scores and values.get("ratings") is not None:
            raise UserError(
                f"{place}: got `ratings` without `verifications`, as an unreleased version wrote them; expected the "
                "completions to be sampled and verified again"
            )
        first = first or where
        prompts.append(_text(values.get("prompt"), "prompt", place))
        golds.append(_gold(values.get("answer"), place))
        answers.append(group)
        for name, numbers in line_scores.items():
            scores.setdefault(name, []).append(numbers)
    if not prompts:
        raise UserError(f"{argument}: {path} is empty, expected at least one line with `prompt` and `completions`")
    finished = fmean(found.ended) if found.ended else None
    arrays = {name: np.array(numbers) for name, numbers in scores.items()}
    stated = None
    if any(each is not None for group in found.confidences for each in group) and VERBALIZED not in arrays:
        stated = np.array([[each is not None for each in group] for group in found.confidences])
        arrays[VERBALIZED] = np.array([[each or 0.0 for each in group] for group in found.confidences])
    return Completions(
        prompts,
        golds,
        answers,
        arrays,
        found.tiers,
        examples(found.unanswered),
        how_to_get_answers(answer_style, finished) if found.texts else None,
        how_to_get_form(finished) if found.texts and any("<confidence>" in prompt for prompt in prompts) else None,
        stated,
        **(verifications.found() if len(verifications.rated) == len(prompts) else {}),
    )


@dataclass
class _Found:
    """What is found out about the texts of completions while they are read."""

    texts: int = 0
    tiers: Counter[str] = field(default_factory=Counter)
    unanswered: list[str] = field(default_factory=list)
    """The first of each prompt, as many as are shown."""
    ended: list[bool] = field(default_factory=list)
    """Whether each ended by itself, of those of which it is known."""
    confidences: list[list[float | None]] = field(default_factory=list)
    """What each states between confidence tags, by prompt."""


@dataclass
class _Verifications:
    """What is found out about the verifications of completions while they are read."""

    rated: list[list[float]] = field(default_factory=list)
    """Of each completion the share that states a rating, by prompt; NaN without verifications."""
    unrated: list[str] = field(default_factory=list)
    """The first of each prompt that states none, as many as are shown."""
    ended: list[bool] = field(default_factory=list)

    def add(self, value: object, count: int, place: str) -> None:
        """Add those of a prompt with so many completions."""
        if not isinstance(value, list) or len(value) != count:
            raise UserError(f"{place}: got `verifications` {_shown(value)}, expected a list of {count}")
        shares, unrated = [], []
        for each in value:
            if each is not None and not (isinstance(each, list) and each and all(map(_is_verification, each))):
                raise UserError(
                    f"{place}: got {_shown(each)} among the `verifications`, expected null, or a list of objects with "
                    "`text`, `finished` and `rating`"
                )
            self.ended += [one["finished"] for one in each or ()]
            unrated += [one["text"] for one in each or () if one["rating"] is None]
            shares.append(fmean(one["rating"] is not None for one in each) if each else math.nan)
        self.rated.append(shares)
        if unrated and len(self.unrated) < EXAMPLES:
            self.unrated.append(unrated[0])

    def found(self) -> dict[str, Any]:
        """As `Completions` has it."""
        rated = np.array(self.rated)
        return {
            "verified": ~np.isnan(rated),
            "rated": rated,
            "unrated": examples(self.unrated),
            "verifications_finished": fmean(self.ended) if self.ended else None,
        }


def _is_verification(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    kinds: dict[str, type | tuple[type, ...]] = {"text": str, "finished": bool, "rating": (str, type(None))}
    return all(name in value and isinstance(value[name], kind) for name, kind in kinds.items())


def _answers(values: Mapping[str, object], place: str, style: AnswerStyle, found: _Found) -> list[str | None]:
    name = "completions" if values.get("completions") is not None else "answers"
    items = values.get(name)
    if not isinstance(items, list) or not items:
        raise UserError(
            f"{place}: got `{name}` {_shown(items)}, expected a list of `completions` (texts), or of `answers`"
        )
    if name == "completions":
        finished = values.get("finished")
        if not isinstance(finished, list) or len(finished) != len(items):
            finished = [None] * len(items)  # as in a file from elsewhere
        stated = [
            stated_answer(_text(item, name, place), style=style, finished=None if ended is None else bool(ended))
            for item, ended in zip(items, finished, strict=True)
        ]
        found.texts += len(items)
        found.tiers.update(each.tier for each in stated if each is not None)
        found.ended += [bool(ended) for ended in finished if ended is not None]
        found.confidences.append([read_confidence(read_tags(item).confidence) for item in items])
        if None in stated and len(found.unanswered) < EXAMPLES:
            found.unanswered.append(items[stated.index(None)])
        return [None if each is None else each.text for each in stated]
    found.confidences.append([None] * len(items))
    return [None if _is_missing(item) else _text(item, name, place).strip() or None for item in items]


def _is_missing(value: object) -> bool:
    # NaN is how some tables write it.
    return value is None or (isinstance(value, float | Decimal) and math.isnan(value))


def _gold(value: object, place: str) -> GoldAnswer | None:
    for each in value if isinstance(value, list) else [value]:
        if isinstance(each, str):
            _text(each, "answer", place)
    try:
        return gold_answer(value)
    except TypeError as error:
        raise UserError(
            f"{place}: got {_shown(value)} for `answer`, expected text, a number, true or false, or a list of those "
            "that are right"
        ) from error


def _text(value: object, name: str, place: str) -> str:
    if isinstance(value, Decimal | int | float) and not isinstance(value, bool) and name.startswith("answer"):
        return written_out(value)  # as gold answers are
    if not isinstance(value, str):
        raise UserError(f"{place}: got {_shown(value)} for `{name}`, expected text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{place}: got `{name}` with half a surrogate pair, expected text that UTF-8 can hold"
        ) from error
    return value


def _scores(value: object, place: str) -> dict[str, list[float]]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(f"{place}: got `scores` {_shown(value)}, expected an object of lists of numbers")
    scores = {}
    for name, items in value.items():
        if name in TAKEN_NAMES:
            raise UserError(f"{place}: got a score `{name}`, expected another name: that is measured in any case")
        if not isinstance(items, list):
            raise UserError(f"{place}: got {_shown(items)} for the score `{name}`, expected a list of numbers")
        for item in items:
            number = isinstance(item, Decimal | int | float) and not isinstance(item, bool)
            if not number or not math.isfinite(float(item)):
                raise UserError(f"{place}: got {_shown(item)} among the scores `{name}`, expected finite numbers")
        scores[str(name)] = [float(item) for item in items]
    return scores


def _shown(value: object) -> str:
    # Numbers come as they were written.
    return shorten(str(value) if isinstance(value, Decimal) else json.dumps(value, default=str, ensure_ascii=False))
