"""What trying again is worth: accuracy by round, what acceptance gets right, and risk at every coverage."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlif.answers.matching import is_right
from rlif.answers.math_verification import RUN_SECONDS, limited_cost
from rlif.errors import UserError
from rlif.files.json_values import without_nan
from rlif.files.jsonl import read_rows
from rlif.metrics.bootstrap import Bootstrap, Estimate, Floats, Resampled
from rlif.metrics.calibration import RiskCoverage, risk_coverage

ENDS = ("accepted", "max_rounds", "too_long")


@dataclass(frozen=True)
class Tried:
    """At most R attempts at each of P prompts."""

    probability: Floats
    """(P, R) of being right, by the discriminator; NaN where there was no attempt."""
    right: Floats
    """(P, R) 1 or 0; NaN without a gold answer, and where there was no attempt."""
    tokens: Floats
    """(P, R) of the attempt; 0 where there was none."""
    ends: list[str]
    """P, of `ENDS`."""

    @property
    def accepted(self) -> NDArray[np.bool_]:
        """(P, R) whether the attempt was accepted, which only the last one at a prompt can be."""
        there = ~np.isnan(self.probability)
        last = np.arange(there.shape[1]) == there.sum(axis=1, keepdims=True) - 1
        return last & (np.array(self.ends) == "accepted")[:, None]

    def chosen(self, rounds: int) -> NDArray[np.int64]:
        """(P,) the attempt that is the answer after so many rounds: the accepted one, else the most probable so far."""
        rank = np.where(self.accepted, 2.0, np.nan_to_num(self.probability, nan=-1.0))[:, :rounds]
        return rank.argmax(axis=1)


@dataclass(frozen=True)
class RoundMeasures:
    """The attempts of one round. NaN where nothing is known."""

    attempts: int
    """Prompts that had an attempt."""
    accepted: Estimate
    """Share of them that was accepted."""
    probability: Estimate
    """Mean probability of being right, by the discriminator; `right` if it is calibrated."""
    right: Estimate
    """Share of them that was right."""
    precision: Estimate
    """Share of the accepted ones that was right."""
    recall: Estimate
    """Share of the right ones that was accepted."""
    accuracy: Estimate
    """Share of all prompts answered right if this is the last round: accepted attempts, else the most probable."""


@dataclass(frozen=True)
class Retried:
    """What was found out about the loop. Accuracies are of the prompts with a gold answer, NaN if there are none."""

    prompts: int
    labelled: int
    abstain: bool
    ends: dict[str, float]
    """Share of the prompts whose attempts ended so."""
    rounds: list[RoundMeasures]
    first: Estimate
    """Share of first attempts that are right: what one sample is worth."""
    accuracy: Estimate
    """Share of prompts answered right; one without an answer counts as wrong."""
    any_right: Estimate
    """Share of prompts with a right attempt among all: what a perfect discriminator would come to."""
    precision: Estimate
    """Share of accepted answers that is right."""
    gain: Estimate
    """That, less `first`."""
    recall: Estimate
    """Share of right attempts that was accepted."""
    auroc: Estimate
    """Of the discriminator, on first attempts."""
    attempts: Estimate
    """Mean number at a prompt."""
    tokens: Estimate
    """Mean number sampled for a prompt."""
    curves: dict[str, RiskCoverage]
    """Of the first attempts, and of the answers in the end, by their probabilities; empty without gold answers."""

    def to_json(self) -> dict[str, Any]:
        """As JSON holds it: null for NaN, of a curve its area alone."""
        fields = {name: value for name, value in vars(self).items() if name not in ("curves", "rounds")}
        document = {name: asdict(value) if isinstance(value, Estimate) else value for name, value in fields.items()}
        document["rounds"] = [asdict(each) for each in self.rounds]
        document["aurc"] = {name: curve.area for name, curve in self.curves.items()}
        found: dict[str, Any] = without_nan(document)
        return found


def read_attempts(path: Path, max_rounds: int) -> Tried:
    """Read a finished attempts.jsonl.

    Raises:
        UserError: it cannot be read, is empty, or has changed.
    """
    rows = read_rows(path, sealed_only=True)
    if not rows:
        raise UserError(f"output_dir: {path} is empty, expected the attempts at one prompt at least")
    shape = len(rows), max_rounds
    probability, right, tokens = np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape)
    with limited_cost(RUN_SECONDS):
        for place, row in enumerate(rows):
            count, gold = len(row["probabilities"]), row["answer"]
            probability[place, :count], tokens[place, :count] = row["probabilities"], row["tokens"]
            if gold is not None:
                right[place, :count] = [answer is not None and is_right(answer, gold) for answer in row["stated"]]
    return Tried(probability, right, tokens, [row["end"] for row in rows])


def measure(tried: Tried, *, abstain: bool = False, resamples: int = 1000, seed: int = 0) -> Retried:
    """Measure attempts, and resample the prompts for the intervals.

    Args:
        tried: at least one attempt at each of at least one prompt.
        abstain: give no answer where none was accepted.
        resamples: of the prompts.
        seed: of the resamples.
    """
    there, known = ~np.isnan(tried.probability), ~np.isnan(tried.right)
    bootstrap = Bootstrap(len(there), resamples=resamples, seed=seed)
    labelled = known[:, 0]
    accepted, right = tried.accepted, np.nan_to_num(tried.right)

    def share(part: NDArray[Any], of: NDArray[np.bool_]) -> Resampled:
        return bootstrap.ratio(np.where(of, part, 0.0).sum(axis=1), of.sum(axis=1).astype(np.float64))

    def answers_right(rounds: int) -> Floats:
        return np.take_along_axis(tried.right, tried.chosen(rounds)[:, None], axis=1)[:, 0]

    def of_round(number: int) -> RoundMeasures:
        here = np.zeros_like(there)
        here[:, number] = there[:, number]
        return RoundMeasures(
            attempts=int(here.sum()),
            accepted=share(accepted, here).estimate,
            probability=share(tried.probability, here).estimate,
            right=share(right, here & known).estimate,
            precision=share(right, here & known & accepted).estimate,
            recall=share(accepted, here & known & (right == 1)).estimate,
            accuracy=bootstrap.mean(answers_right(number + 1)).estimate,
        )

    rounds = there.shape[1]
    final = answers_right(rounds)
    answered_right = np.where(labelled & ~accepted.any(axis=1), 0.0, final) if abstain else final
    first, precision = bootstrap.mean(tried.right[:, 0]), share(right, known & accepted)
    ends = Counter(tried.ends)
    return Retried(
        prompts=len(there),
        labelled=int(labelled.sum()),
        abstain=abstain,
        ends={end: ends[end] / len(there) for end in ENDS},
        rounds=[of_round(number) for number in range(rounds) if there[:, number].any()],
        first=first.estimate,
        accuracy=bootstrap.mean(answered_right).estimate,
        any_right=bootstrap.mean(np.where(labelled, right.any(axis=1), np.nan)).estimate,
        precision=precision.estimate,
        gain=Resampled(precision.value - first.value, precision.resamples - first.resamples).estimate,
        recall=share(accepted, known & (right == 1)).estimate,
        auroc=_auroc(tried, labelled, resamples, seed),
        attempts=bootstrap.mean(there.sum(axis=1).astype(np.float64)).estimate,
        tokens=bootstrap.mean(tried.tokens.sum(axis=1)).estimate,
        curves=_curves(tried, labelled, final),
    )


def _auroc(tried: Tried, labelled: NDArray[np.bool_], resamples: int, seed: int) -> Estimate:
    """Of first attempts alone, all of which were sampled alike."""
    if not labelled.any():
        return Estimate(np.nan, np.nan, np.nan)
    bootstrap = Bootstrap(int(labelled.sum()), resamples=resamples, seed=seed)
    return bootstrap.auroc(tried.probability[labelled, :1], tried.right[labelled, :1] == 1).estimate


def _curves(tried: Tried, labelled: NDArray[np.bool_], final: Floats) -> dict[str, RiskCoverage]:
    if not labelled.any():
        return {}
    rounds = tried.probability.shape[1]
    probability = np.take_along_axis(tried.probability, tried.chosen(rounds)[:, None], axis=1)[:, 0]
    return {
        "first attempts": risk_coverage(tried.probability[labelled, 0], tried.right[labelled, 0] == 1),
        "answers in the end": risk_coverage(probability[labelled], final[labelled] == 1),
    }
