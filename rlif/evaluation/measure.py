"""Everything that completions with gold answers and scores can tell, as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlif.answers.math_verification import RUN_SECONDS, limited_cost
from rlif.evaluation.completions import AGREEMENT, ALL_SCORES, VERBALIZED, VERBALIZED_MEAN, VERIFICATION, Completions
from rlif.files.json_values import without_nan
from rlif.metrics.calibration import (
    ReliabilityBins,
    RiskCoverage,
    auroc,
    auroc_within,
    brier_score,
    expected_calibration_error,
    isotonic_confidence,
    logistic_confidence,
    reliability_bins,
    risk_coverage,
)
from rlif.metrics.selection import (
    BORDA_POWERS,
    Mean,
    best_choice,
    borda_choice,
    chosen,
    majority_at_k,
    majority_choice,
    mean_over_prompts,
    pass_at_k,
    weighted_choice,
)
from rlif.scoring.group_confidence import GROUP_SCORES, TOP_GROUP_SCORES

# In nats: no probabilities, even where all of them happen to lie in [0, 1].
SCORES_IN_NATS = (
    "self_certainty", "token_entropy", "token_varentropy", "top_confidence", "trajectory_entropy", "sequence_logprob",
    *GROUP_SCORES, *TOP_GROUP_SCORES,
)  # fmt: skip
# Share of the stated confidences from which they are said to be one.
SAME_CONFIDENCE = 0.9


class ScoreQuality(NamedTuple):
    """What a confidence score says about completions being right."""

    auroc: float
    """Of all completions together; NaN if all are right, or none is."""
    auroc_within: float
    """Mean over the prompts that have right and wrong completions: what best-of-N lives on. NaN if no prompt has."""
    as_is: tuple[float, float] | None
    """ECE and Brier score of the score itself, where it is in [0, 1]."""
    isotonic: tuple[float, float] | None
    """The same of the score made a probability by regression on other prompts; None for a single prompt."""
    curve: RiskCoverage
    bins: ReliabilityBins | None
    """Of the score as it is, where it is in [0, 1], else of the isotonic one."""


@dataclass(frozen=True)
class Evaluation:
    """The measures of P prompts with N completions each."""

    prompts: int
    num_generations: int
    labelled: int
    """Prompts that have a gold answer. Accuracies and calibration are of these; absent if there are none, or if none of
    their completions states an answer: 0% would be no measurement."""
    label_free: dict[str, Mean]
    """Share of completions that state an answer, share of the most common one, and the mean of each score."""
    selection: dict[str, Mean]
    """Share of right answers: by sampling one, by votes, by each score, and at best."""
    scores: dict[str, ScoreQuality]
    majority_answers: list[tuple[str | None, float]]
    """The most common answer of each prompt, and the share of its completions that state it."""
    tiers: dict[str, float]
    """Share of completions whose answer each rule of `rlif.answers.extract` found."""
    unread_answers: int = 0
    """Answers that were compared as text, since computer algebra would have taken too long."""
    unanswered: tuple[str, ...] = ()
    """The ends of a few completions that state no answer."""
    advice: str | None = None
    """What may help where few state one."""
    confidence_advice: str | None = None
    """What may help where few state their confidence; None where no prompt asks for it."""
    verifying: float | None = None
    """Balanced accuracy of one verification: the mean of the share of those of right completions that call them right,
    and the share of those of the others that do not. None without verifications that state a rating, or if completions
    are all alike."""
    unrated: tuple[str, ...] = ()
    """The ends of a few verifications that state no rating."""
    verifications_finished: float | None = None
    """Share of the verifications that ended by themselves; None without any, or where nobody knows."""
    same_confidence: tuple[float, float] | None = None
    """The confidence that most completions state of those that state one, and their share, where that is large."""

    def to_json(self) -> dict[str, Any]:
        """As JSON holds it: lists for arrays, null for NaN."""
        return {
            "prompts": self.prompts,
            "num_generations": self.num_generations,
            "labelled": self.labelled,
            "tiers": self.tiers,
            "unanswered": self.unanswered,
            "unread_answers": self.unread_answers,
            "verifying": self.verifying,
            "unrated": self.unrated,
            **{
                kind: {name: without_nan(mean._asdict()) for name, mean in means.items()}
                for kind, means in (("label_free", self.label_free), ("selection", self.selection))
            },
            "scores": {
                name: {
                    "auroc": without_nan(quality.auroc),
                    "auroc_within": without_nan(quality.auroc_within),
                    "aurc": quality.curve.area,
                    "as_is": quality.as_is and dict(zip(("ece", "brier"), quality.as_is, strict=True)),
                    "isotonic": quality.isotonic and dict(zip(("ece", "brier"), quality.isotonic, strict=True)),
                    "bins": quality.bins
                    and {name: without_nan(values.tolist()) for name, values in quality.bins._asdict().items()},
                }
                for name, quality in self.scores.items()
            },
        }


def evaluate_completions(
    completions: Completions, *, num_bins: int = 10, borda_powers: Sequence[float] = BORDA_POWERS
) -> Evaluation:
    """Measure completions: selection among them, and every score's calibration and discrimination.

    The agreement within the group is a score too. Votes are weighed by self-certainty where it is among the scores,
    else by each of them.

    Args:
        completions: of at least one prompt, with or without gold answers.
        num_bins: of the calibration error and the reliability diagram.
        borda_powers: powers of the rank in Borda voting.
    """
    with limited_cost(RUN_SECONDS) as cost:
        evaluation = _evaluate(completions, num_bins, borda_powers)
    return replace(evaluation, unread_answers=len(cost.unread))


def _evaluate(completions: Completions, num_bins: int, borda_powers: Sequence[float]) -> Evaluation:
    majority = majority_choice(completions.clusters)
    shares = chosen(completions.agreement, majority)
    label_free = {
        "answered": mean_over_prompts((completions.clusters >= 0).mean(axis=1)),
        "majority_share": mean_over_prompts(shares),
        **(
            {}
            if completions.confidence_stated is None
            else {"confidence_stated": mean_over_prompts(completions.confidence_stated.mean(axis=1))}
        ),
        **({} if completions.verified is None else {"verified": mean_over_prompts(completions.verified.mean(axis=1))}),
        **rated_share(completions),
        **{name: mean_over_prompts(values.mean(axis=1)) for name, values in completions.scores.items()},
    }
    labelled = completions.labelled()
    measured = bool(labelled.prompts) and bool((labelled.clusters >= 0).any())
    size = len(completions.prompts) * completions.num_generations
    return Evaluation(
        prompts=len(completions.prompts),
        num_generations=completions.num_generations,
        labelled=len(labelled.prompts),
        label_free=label_free,
        selection=_selection(labelled, borda_powers) if measured else {},
        scores=_scores(labelled, num_bins) if measured else {},
        majority_answers=[
            (group[place] if place >= 0 else None, float(share))
            for group, place, share in zip(completions.answers, majority, shares, strict=True)
        ],
        tiers={tier: count / size for tier, count in sorted(completions.tiers.items())},
        unanswered=completions.unanswered,
        advice=completions.advice,
        confidence_advice=completions.confidence_advice,
        verifying=balanced_accuracy(labelled) if measured else None,
        unrated=completions.unrated,
        verifications_finished=completions.verifications_finished,
        same_confidence=same_confidence(completions),
    )


def same_confidence(completions: Completions) -> tuple[float, float] | None:
    """Find the confidence that nearly all completions state, with its share; None if there is none.

    Training on verbalised confidence collapses to one value where problems are equally hard (arXiv 2507.16806).
    """
    if completions.confidence_stated is None:
        return None
    values, counts = np.unique(completions.scores[VERBALIZED][completions.confidence_stated], return_counts=True)
    share = counts.max() / counts.sum()
    return (float(values[counts.argmax()]), float(share)) if share >= SAME_CONFIDENCE else None


def rated_share(completions: Completions) -> dict[str, Mean]:
    """Average the share of verifications that state a rating, under its name; empty where nobody knows it."""
    if completions.rated is None or np.isnan(completions.rated).all():
        return {}
    groups = completions.rated[~np.isnan(completions.rated).all(axis=1)]
    return {"rated": mean_over_prompts(np.nanmean(groups, axis=1))}


def balanced_accuracy(completions: Completions) -> float | None:
    """Average how often one verification calls a right completion right, and another one not; None for no such mean."""
    if VERIFICATION not in completions.scores or (completions.rated is not None and not np.nansum(completions.rated)):
        return None
    share, correct = completions.scores[VERIFICATION], completions.correct()
    verified = np.ones_like(correct) if completions.verified is None else completions.verified
    right, other = share[verified & correct], share[verified & ~correct]
    return float(right.mean() + 1 - other.mean()) / 2 if len(right) and len(other) else None


def confidences(completions: Completions) -> dict[str, NDArray[np.float64]]:
    """(P, N) of every score by name, the agreement among them."""
    return {**completions.scores, AGREEMENT: completions.agreement}


def all_scores(completions: Completions) -> NDArray[np.float64]:
    """(P, N) probabilities of being right, by regression on all scores and the labels of other prompts."""
    correct = completions.correct()
    features = np.stack([values.ravel() for values in completions.scores.values()], axis=1)
    groups = np.repeat(np.arange(len(correct)), correct.shape[1])
    return logistic_confidence(features, correct.ravel(), groups).reshape(correct.shape)


def as_probability(name: str, values: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """The score itself as a probability, if it can be taken for one: in [0, 1], a negative disparity being 0."""
    if name == "probability_disparity":
        values = values.clip(0.0, 1.0)
    return None if name in SCORES_IN_NATS or values.min() < 0 or values.max() > 1 else values


def _selection(completions: Completions, borda_powers: Sequence[float]) -> dict[str, Mean]:
    correct, clusters, count = completions.correct(), completions.clusters, completions.num_generations
    powers_of_two = [1 << exponent for exponent in range(1, count.bit_length()) if 1 << exponent <= count]
    ks = sorted({*powers_of_two, count} - {1})
    values = {"accuracy@1": correct[:, 0], f"average@{count}": correct.mean(axis=1)}
    values |= {f"majority@{k}": majority_at_k(correct, clusters, k) for k in ks}
    for name, scores in completions.scores.items():
        values[f"best-of-{count}/{name}"] = chosen(correct, best_choice(scores, clusters))
    for name in (VERBALIZED, VERBALIZED_MEAN, VERIFICATION):
        weights = as_probability(name, completions.scores[name]) if name in completions.scores else None
        if weights is not None:
            values[f"weighted-majority/{name}"] = chosen(correct, weighted_choice(weights, clusters))
    voters = [name for name in ("self_certainty",) if name in completions.scores] or list(completions.scores)
    for name in voters:
        for power in borda_powers:
            choice = borda_choice(completions.scores[name], clusters, power)
            values[f"borda-{power:g}/{name}"] = chosen(correct, choice)
    values |= {f"pass@{k}": pass_at_k(correct, k) for k in ks}
    return {name: mean_over_prompts(per_prompt) for name, per_prompt in values.items()}


def _scores(completions: Completions, num_bins: int) -> dict[str, ScoreQuality]:
    correct = completions.correct()
    groups = np.repeat(np.arange(len(correct)), correct.shape[1])
    measured = confidences(completions)
    if len(completions.scores) > 1 and len(correct) > 1:
        measured[ALL_SCORES] = all_scores(completions)
    return {name: _quality(name, values, correct, groups, num_bins) for name, values in measured.items()}


def _quality(
    name: str, values: NDArray[np.float64], correct: NDArray[np.bool_], groups: NDArray[np.int64], num_bins: int
) -> ScoreQuality:
    flat, right = values.ravel(), correct.ravel()
    probability = as_probability(name, flat)
    isotonic = isotonic_confidence(flat, right, groups) if len(correct) > 1 else None

    def calibration(confidence: NDArray[np.float64] | None) -> tuple[float, float] | None:
        if confidence is None:
            return None
        return expected_calibration_error(confidence, right, num_bins), brier_score(confidence, right)

    shown = isotonic if probability is None else probability
    return ScoreQuality(
        auroc=auroc(flat, right),
        auroc_within=auroc_within(values, correct),
        as_is=calibration(probability),
        isotonic=calibration(isotonic),
        curve=risk_coverage(flat, right),
        bins=None if shown is None else reliability_bins(shown, right, num_bins),
    )
