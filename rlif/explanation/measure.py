"""How far each score explains the implicit reward of a training, within prompts and with intervals."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from rlif.explanation.samples import Samples
from rlif.files.json_values import without_nan
from rlif.metrics.bootstrap import Bootstrap, Estimate, Floats, Resampled
from rlif.metrics.ranks import rank_correlation

RIGHT = "verifiable"
# Of the regression: this share of what a standardised score has by itself.
RIDGE = 0.01
# What a reward may bring about; the others may be the reward itself.
SIDE_EFFECTS = ("format", "ended", "length", "repetition")
FOLDS = 5
# Of the logistic regressions, one a standardised feature: penalties that leave many features from overfitting.
STRENGTH = {"scores": 1.0, "text": 0.001}


@dataclass(frozen=True)
class ScoreMeasures:
    """What one score has to do with the implicit reward, among completions of one prompt."""

    concordance: Estimate
    """Of two completions with different scores, how often the one with the higher score has the higher implicit reward;
    0.5 is chance. Of a score that is 0 or 1 it is the AUROC."""
    pearson: Estimate
    """Correlation, over all completions with their prompts' means taken off."""
    spearman: Estimate
    """Correlation of ranks, mean over the prompts in which the score varies."""
    kendall: Estimate
    """Kendall's tau-b, likewise."""
    coefficient: Estimate
    """In the regression on all scores, each in standard deviations within prompts."""
    against_right: Estimate | None
    """Where a right completion scores less than a wrong one: how often the implicit reward prefers the right one. None
    without gold answers, and of right answers themselves."""


@dataclass(frozen=True)
class Explanation:
    """What was found out about a training."""

    num_prompts: int
    num_generations: int
    kl: Estimate
    """KL(tuned ‖ start) of a completion, in nats: the mean implicit reward of the tuned model's own samples."""
    accuracy: dict[str, Estimate] | None
    """Share of right completions of each model; None without gold answers."""
    scores: dict[str, ScoreMeasures]
    """By name, those that vary within prompts, two at least: rewards by the lower end of their concordance, so that a
    few pairs which agree by chance count little; then side effects by how surely theirs is no chance."""
    parted: dict[str, dict[str, Estimate]]
    """Of two rewards: among pairs of completions that they order in opposite ways, how often the training sided with
    the first; NaN where there are none in two prompts. Scores that all come with each other are told apart here alone.
    """
    explained: Estimate
    """Share of the implicit reward's variance within prompts that the regression on all scores accounts for."""
    told_apart: dict[str, Estimate]
    """How often a reward made of the `scores` or of the `text` alone, learnt on other prompts, prefers the tuned
    model's completion to the start model's; 0.5 is chance (arXiv 2410.12491)."""

    def to_json(self) -> dict[str, Any]:
        """As JSON holds it: null for NaN."""
        found: dict[str, Any] = without_nan(asdict(self))
        return found


def measure(samples: Samples, *, resamples: int = 1000, seed: int = 0) -> Explanation:
    """Compare the implicit reward with every score, and resample the prompts for the intervals."""
    reward = samples.implicit_reward
    prompts, count = reward.shape
    bootstrap = Bootstrap(prompts, resamples=resamples, seed=seed)
    size = count // 2
    varying = {name: values for name, values in samples.scores.items() if varies(values)}
    coefficients, explained = regression(reward, varying, bootstrap)
    right = samples.scores[RIGHT]
    has_gold = bool((~np.isnan(right)).any())
    scores = {
        name: ScoreMeasures(
            concordance=concordance(reward, values, bootstrap).estimate,
            pearson=bootstrap.correlation(centred(reward, values), centred(values, values)).estimate,
            spearman=bootstrap.mean(by_prompt(rank_correlation, reward, values)).estimate,
            kendall=bootstrap.mean(by_prompt(kendall, reward, values)).estimate,
            coefficient=coefficients[name].estimate,
            against_right=sides_with(reward, right, values, bootstrap).estimate if has_gold and name != RIGHT else None,
        )
        for name, values in varying.items()
    }
    rewards = [name for name in scores if name not in SIDE_EFFECTS]
    parted = {
        name: {
            other: sides_with(reward, varying[name], varying[other], bootstrap).estimate
            for other in rewards
            if other != name
        }
        for name in rewards
    }
    effects = [name for name in scores if name in SIDE_EFFECTS]
    ranked = sorted(rewards, key=lambda name: -np.nan_to_num(scores[name].concordance.low))
    ranked += sorted(effects, key=lambda name: from_chance(scores[name].concordance), reverse=True)
    features = {
        "scores": np.stack([filled(values) for values in varying.values()], axis=-1) if varying else None,
        "text": samples.states.astype(np.float64),
    }
    return Explanation(
        num_prompts=prompts,
        num_generations=size,
        kl=bootstrap.mean(reward[:, :size].mean(axis=1)).estimate,
        accuracy={
            name: bootstrap.mean(right[:, part].mean(axis=1)).estimate
            for name, part in (("start", slice(size, None)), ("tuned", slice(size)))
        }
        if has_gold
        else None,
        scores={name: scores[name] for name in ranked},
        parted=parted,
        explained=explained.estimate,
        told_apart={
            name: bootstrap.mean(told_apart(values, STRENGTH[name])).estimate
            for name, values in features.items()
            if values is not None and prompts >= FOLDS
        },
    )


def from_chance(share: Estimate) -> float:
    """How far the end of the interval that is nearer to one half is from it; 0 where one half is within.

    By this side effects are ranked: of one that seldom varies, a few pairs may agree by chance.
    """
    if np.isnan(share.value) or share.low <= 0.5 <= share.high:
        return 0.0
    return min(abs(share.low - 0.5), abs(share.high - 0.5))


def varies(values: Floats) -> bool:
    """Whether there are prompts, two at least, whose completions have different scores.

    What is known of a single prompt has no interval over prompts.
    """
    known = np.isfinite(values).all(axis=1)
    return int((np.ptp(values[known], axis=1) > 0).sum()) > 1


def filled(values: Floats) -> Floats:
    """(P, N) with the mean of the prompt taken off; 0 where a score does not apply, as if it were the mean."""
    return np.nan_to_num(centred(values, values))


def centred(values: Floats, known: Floats) -> Floats:
    """(P, N) with the mean of the prompt taken off, over the completions that are not NaN in `known`; 0 elsewhere."""
    there = np.isfinite(known)
    count = np.maximum(there.sum(axis=1, keepdims=True), 1)
    mean = np.where(there, values, 0).sum(axis=1, keepdims=True) / count
    return np.where(there, values - mean, 0.0)


def by_prompt(coefficient: Any, reward: Floats, values: Floats) -> Floats:
    """(P,) a coefficient of each prompt's completions, NaN where the score or the reward is the same for all."""
    found = np.full(len(reward), np.nan)
    for row, (one, other) in enumerate(zip(reward, values, strict=True)):
        there = np.isfinite(other)
        if there.sum() > 1 and np.ptp(one[there]) > 0 and np.ptp(other[there]) > 0:
            found[row] = coefficient(one[there], other[there])
    return found


def kendall(one: Floats, other: Floats) -> float:
    """Kendall's tau-b of two lists of numbers."""
    return float(stats.kendalltau(one, other).statistic)


def pairs(values: Floats) -> Floats:
    """(P, N, N) the sign of value i less value j of each prompt; NaN where one has none."""
    return np.sign(values[:, :, None] - values[:, None, :])


def concordance(reward: Floats, values: Floats, bootstrap: Bootstrap) -> Resampled:
    """Return how often the higher of two scores of a prompt has the higher reward; an equal reward counts half."""
    higher = pairs(values) > 0
    agreed = (1 + pairs(reward)) / 2
    return bootstrap.ratio((agreed * higher).sum(axis=(1, 2)), higher.sum(axis=(1, 2)).astype(np.float64))


def sides_with(reward: Floats, values: Floats, other: Floats, bootstrap: Bootstrap) -> Resampled:
    """Return how often the implicit reward orders two completions as `values` does and `other` does not.

    NaN where they part in fewer than two prompts, of which there is no interval.
    """
    parting = pairs(values) * pairs(other) < 0
    if parting.any(axis=(1, 2)).sum() < 2:
        return Resampled(np.nan, np.full(bootstrap.resamples, np.nan))
    agreed = (1 + pairs(reward) * pairs(values)) / 2
    shares = np.where(parting, agreed, 0.0).sum(axis=(1, 2))
    return bootstrap.ratio(shares, parting.sum(axis=(1, 2)).astype(np.float64))


def regression(
    reward: Floats, scores: dict[str, Floats], bootstrap: Bootstrap
) -> tuple[dict[str, Resampled], Resampled]:
    """Regress the implicit reward on all scores within prompts, in standard deviations, with a small ridge.

    Returns:
        The coefficient of each score, and the share of variance that they account for together.
    """
    y = centred(reward, reward)
    spread = np.sqrt((y**2).mean())
    if not scores or spread == 0:
        nothing = Resampled(np.nan, np.full(bootstrap.resamples, np.nan))
        return dict.fromkeys(scores, nothing), nothing
    y = y / spread
    x = np.stack([filled(values) for values in scores.values()], axis=-1)
    x = x / np.sqrt((x**2).mean(axis=(0, 1)))
    grams, moments = np.einsum("pni,pnj->pij", x, x), np.einsum("pni,pn->pi", x, y)
    squares = (y**2).sum(axis=1)

    def solve(gram: Floats, moment: Floats, square: Floats) -> tuple[Floats, Floats]:
        diagonal = np.einsum("rii->ri", gram)
        ridge = gram + RIDGE * np.einsum("ri,ij->rij", diagonal + 1e-12, np.eye(gram.shape[1]))
        weights = np.linalg.solve(ridge, moment[..., None])[..., 0]
        left = np.einsum("ri,rij,rj->r", weights, gram, weights) - 2 * (weights * moment).sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return weights, -left / square

    whole = solve(*(each.sum(axis=0, keepdims=True) for each in (grams, moments, squares)))
    again = solve(*(bootstrap.sums(each) for each in (grams, moments, squares)))
    coefficients = {name: Resampled(float(whole[0][0, place]), again[0][:, place]) for place, name in enumerate(scores)}
    return coefficients, Resampled(float(whole[1][0]), again[1])


def told_apart(features: Floats, strength: float) -> Floats:
    """Learn a linear reward by the logistic loss of pairs, and apply it to prompts that it was not learnt on.

    A pair is a completion of each model to one prompt, so that nothing of the prompt counts but what it does to the
    completions (arXiv 2410.12491, whose reward models have a head on the last token's hidden state too).

    Args:
        features: (P, 2 G, F), the tuned model's first.
        strength: inverse of the penalty (scikit-learn's C).

    Returns:
        (P,) the share of its pairs in which the tuned model's completion has the higher reward, an equal one counting
        half.
    """
    size = features.shape[1] // 2
    differences = features[:, :size] - features[:, size:]
    prompts = np.repeat(np.arange(len(features)), size)
    flat = differences.reshape(len(prompts), -1)
    won = np.zeros(len(prompts))
    for learnt, held_out in GroupKFold(FOLDS).split(flat, groups=prompts):
        scale = np.sqrt((flat[learnt] ** 2).mean(axis=0))
        x = flat / np.where(scale > 0, scale, 1)
        # Every pair both ways round: the reward has no constant.
        model = LogisticRegression(C=strength, fit_intercept=False, max_iter=1000)
        both = np.concatenate([x[learnt], -x[learnt]])
        labels = np.repeat([1, 0], len(learnt))
        margin = x[held_out] @ model.fit(both, labels).coef_[0]
        won[held_out] = (1 + np.sign(margin)) / 2
    found: NDArray[np.float64] = won.reshape(len(features), size).mean(axis=1)
    return found
