"""Whether confidence tells right completions from wrong ones, and whether its numbers are probabilities.

Two questions. Discrimination asks for the order alone, and takes any score: `auroc`, `risk_coverage`. Calibration asks
whether of the completions with confidence 0.8 four in five are right, and takes numbers in [0, 1]: `reliability_bins`,
`expected_calibration_error`, `brier_score`. `isotonic_confidence` makes such numbers of a score in nats, and
`logistic_confidence` of several scores together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler

from rlif.metrics.ranks import midranks


class ReliabilityBins(NamedTuple):
    """N completions in B bins of confidence, of equal width."""

    edges: NDArray[np.float64]
    """(B + 1,) from 0 to 1. A bin has its lower edge; the last has both."""
    counts: NDArray[np.int64]
    """(B,) completions in each; they add up to N."""
    confidence: NDArray[np.float64]
    """(B,) their mean confidence; NaN in an empty bin."""
    accuracy: NDArray[np.float64]
    """(B,) the share of them that is right; NaN in an empty bin."""


class RiskCoverage(NamedTuple):
    """What answering only the k most confident of N questions leads to, for every k."""

    coverage: NDArray[np.float64]
    """(N,) k / N."""
    risk: NDArray[np.float64]
    """(N,) the share of wrong answers among those given."""
    area: float
    """Mean of the risk over all coverages (AURC): the share wrong where the order is of no use, less where it is."""


class LogisticModel(NamedTuple):
    """A logistic regression on K standardised scores."""

    means: NDArray[np.float64]
    """(K,) taken off the scores."""
    scales: NDArray[np.float64]
    """(K,) standard deviations, that they are then divided by; greater than 0."""
    coefficients: NDArray[np.float64]
    """(K,) of the standardised scores, in nats of log-odds."""
    intercept: float

    def probability(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Return (N,) probabilities of (N, K) scores."""
        standardised = (np.asarray(scores, dtype=np.float64) - self.means) / self.scales
        return np.asarray(expit(standardised @ self.coefficients + self.intercept))


def reliability_bins(confidence: ArrayLike, correct: ArrayLike, num_bins: int = 10) -> ReliabilityBins:
    """Confidence against accuracy, bin by bin.

    Args:
        confidence: (N,) probabilities of being right.
        correct: (N,) bool.
        num_bins: of equal width.

    Raises:
        ValueError: shapes that do not match, N = 0, a confidence outside [0, 1], fewer than one bin.
    """
    probability, right = _probabilities(confidence, correct)
    if num_bins < 1:
        raise ValueError(f"num_bins is {num_bins}, expected at least 1")
    # Each edge is the division that a confidence of k / num_bins came from, so that such a one is in the bin it begins.
    edges = np.arange(num_bins + 1) / num_bins
    index = np.minimum(np.searchsorted(edges, probability, side="right") - 1, num_bins - 1)
    counts = np.bincount(index, minlength=num_bins)
    with np.errstate(invalid="ignore"):  # 0 / 0 where a bin is empty
        return ReliabilityBins(
            edges,
            counts,
            np.bincount(index, weights=probability, minlength=num_bins) / counts,
            np.bincount(index, weights=right, minlength=num_bins) / counts,
        )


def expected_calibration_error(confidence: ArrayLike, correct: ArrayLike, num_bins: int = 10) -> float:
    """Average the gap between confidence and accuracy over equal bins, weighted by completions (arXiv 1706.04599).

    Sum over bins of count / N x |accuracy - mean confidence|, in [0, 1]. Both ends are in a bin: the (lo, hi] of other
    implementations drop a confidence of 0 silently. The arguments, and what raises, are those of `reliability_bins`.
    """
    bins = reliability_bins(confidence, correct, num_bins)
    filled = bins.counts > 0
    gap = np.abs(bins.accuracy - bins.confidence)[filled]
    return float((bins.counts[filled] * gap).sum() / bins.counts.sum())


def brier_score(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Mean squared difference between confidence and being right, in [0, 1]; lower is better.

    Args:
        confidence: (N,) probabilities of being right.
        correct: (N,) bool.

    Raises:
        ValueError: shapes that do not match, N = 0, a confidence outside [0, 1].
    """
    probability, right = _probabilities(confidence, correct)
    return float(np.square(probability - right).mean())


def auroc(score: ArrayLike, correct: ArrayLike) -> float:
    """The chance that a right completion scores above a wrong one, equal scores counting half; NaN if all are alike.

    Args:
        score: (N,) finite numbers in any unit; higher is more confident.
        correct: (N,) bool.

    Raises:
        ValueError: shapes that do not match, N = 0, a score that is not finite.
    """
    return _auroc(*_scores(score, correct))


def auroc_by_group(score: ArrayLike, positive: ArrayLike) -> NDArray[np.float64]:
    """Give each group's chance that a positive completion scores above a negative one, equal scores counting half.

    Args:
        score: (P, N) finite numbers in any unit.
        positive: (P, N) of 1 and 0; NaN leaves the completion out.

    Returns:
        (P,) float64, NaN for a group that lacks one of the two kinds.
    """
    kinds = np.asarray(positive, dtype=np.float64)
    known = ~np.isnan(kinds)
    rows = zip(np.asarray(score, dtype=np.float64), kinds == 1, known, strict=True)
    return np.array([_auroc(values[told], right[told]) for values, right, told in rows])


def auroc_within(score: ArrayLike, correct: ArrayLike) -> float:
    """Mean AUROC within each group that has right and wrong completions; NaN if none has.

    What choosing among the completions of one prompt lives on: that easy prompts get higher scores adds nothing to it.

    Args:
        score: (P, N) finite numbers in any unit, of N completions of each of P prompts.
        correct: (P, N) bool.

    Raises:
        ValueError: shapes that do not match, no completion, a score that is not finite.
    """
    table = np.asarray(score, dtype=np.float64)
    values, right = (flat.reshape(table.shape) for flat in _scores(table.ravel(), np.asarray(correct).ravel()))
    if table.ndim != 2 or np.shape(correct) != table.shape:
        raise ValueError(f"scores have shape {table.shape} and correct {np.shape(correct)}, expected the same (P, N)")
    areas = auroc_by_group(values, right)
    defined = areas[~np.isnan(areas)]
    return float(defined.mean()) if len(defined) else float("nan")


def risk_coverage(score: ArrayLike, correct: ArrayLike) -> RiskCoverage:
    """Risk at each coverage, from the highest score down (arXiv 1705.08500), and its area (arXiv 1805.08206).

    Of equal scores none comes first: within them the risk is what their order at random gives on average.

    Args:
        score: (N,) finite numbers in any unit; higher is more confident.
        correct: (N,) bool.

    Raises:
        ValueError: shapes that do not match, N = 0, a score that is not finite.
    """
    values, right = _scores(score, correct)
    _, level = np.unique(-values, return_inverse=True)  # 0 is the highest score
    share_wrong = np.bincount(level, weights=~right) / np.bincount(level)
    given = np.arange(1, len(values) + 1)
    risk = np.cumsum(share_wrong[np.sort(level)]) / given
    return RiskCoverage(given / len(values), risk, float(risk.mean()))


def isotonic_confidence(
    score: ArrayLike, correct: ArrayLike, groups: ArrayLike, num_folds: int = 5
) -> NDArray[np.float64]:
    """Scores as probabilities of being right, by isotonic regression on other prompts than a score's own.

    Each fold of prompts gets its numbers from a regression that was fitted on the other folds. Fitted on all of them it
    would describe these very completions, and its calibration error would be near 0 whatever the score.

    Args:
        score: (N,) finite numbers in any unit; higher is more confident.
        correct: (N,) bool.
        groups: (N,) what the completions of one prompt have in common, its number perhaps. No prompt is divided.
        num_folds: at most; there are no more folds than prompts.

    Returns:
        (N,) in [0, 1].

    Raises:
        ValueError: shapes that do not match, a score that is not finite, fewer than two prompts or folds.
    """
    values, right = _scores(score, correct)
    confidence = np.empty_like(values)
    for fitted, held_out in _folds(groups, len(values), num_folds):
        regression = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip")
        regression.fit(values[fitted], right[fitted].astype(np.float64))
        confidence[held_out] = regression.predict(values[held_out])
    return confidence


def logistic_confidence(
    scores: ArrayLike, correct: ArrayLike, groups: ArrayLike, num_folds: int = 5
) -> NDArray[np.float64]:
    """Several scores together as probabilities of being right, by logistic regression on other prompts.

    A discriminator of right and wrong completions (DRR, arXiv 2501.01457) that sees no text: what is to be had from the
    statistics of tokens alone. Folds are those of `isotonic_confidence`.

    Args:
        scores: (N, K) finite numbers in any units.
        correct: (N,) bool.
        groups: (N,) what the completions of one prompt have in common.
        num_folds: at most; there are no more folds than prompts.

    Returns:
        (N,) in [0, 1].

    Raises:
        ValueError: shapes that do not match, a score that is not finite, fewer than two prompts or folds.
    """
    features, right = _features(scores, correct)
    confidence = np.empty(len(features))
    for fitted, held_out in _folds(groups, len(features), num_folds):
        share = right[fitted].mean()
        if share in (0.0, 1.0):  # nothing to tell apart
            confidence[held_out] = share
            continue
        confidence[held_out] = fit_logistic(features[fitted], right[fitted]).probability(features[held_out])
    return confidence


def fit_logistic(scores: ArrayLike, correct: ArrayLike) -> LogisticModel:
    """Fit a logistic regression on standardised scores, with scikit-learn's penalty.

    Args:
        scores: (N, K) finite numbers in any units.
        correct: (N,) bool, of both kinds.

    Raises:
        ValueError: shapes that do not match, a score that is not finite, labels of one kind.
    """
    features, right = _features(scores, correct)
    if right.all() or not right.any():
        raise ValueError(f"correct is {bool(right.all())} of all, expected both kinds")
    scaler = StandardScaler().fit(features)
    regression = LogisticRegression().fit(scaler.transform(features), right)
    return LogisticModel(scaler.mean_, scaler.scale_, regression.coef_[0], float(regression.intercept_[0]))


def _folds(groups: ArrayLike, count: int, num_folds: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield the rows that a regression is fitted on, and those that it is then used for: of other prompts."""
    group = np.asarray(groups)
    if group.shape != (count,):
        raise ValueError(f"groups has shape {group.shape}, expected that of correct, ({count},)")
    prompts = len(np.unique(group))
    if prompts < 2 or num_folds < 2:
        raise ValueError(f"got {prompts} prompts and num_folds {num_folds}, expected at least 2 of each")
    yield from GroupKFold(min(num_folds, prompts)).split(group, groups=group)


def _auroc(values: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Mann and Whitney's statistic: by ranks, how many pairs are in the right order."""
    positives, negatives = int(right.sum()), int((~right).sum())
    if not positives or not negatives:
        return float("nan")
    wins = midranks(values)[right].sum() - positives * (positives + 1) / 2
    return float(wins / (positives * negatives))


def _scores(score: ArrayLike, correct: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    values, right = np.asarray(score, dtype=np.float64), np.asarray(correct)
    if values.ndim != 1 or right.shape != values.shape:
        raise ValueError(f"scores have shape {values.shape} and correct {right.shape}, expected the same (N,)")
    if not len(values):
        raise ValueError("got no completion, expected at least one")
    if right.dtype != np.bool_:
        raise ValueError(f"correct has dtype {right.dtype}, expected bool")
    if not np.isfinite(values).all():
        row = int(np.argmin(np.isfinite(values)))
        raise ValueError(f"score {row} is {values[row]}, expected a finite number")
    return values, right


def _features(scores: ArrayLike, correct: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    features = np.asarray(scores, dtype=np.float64)
    if features.ndim != 2 or not features.shape[1]:
        raise ValueError(f"scores has shape {features.shape}, expected (N, K) with at least one score")
    for column in features.T:
        _, right = _scores(column, correct)
    return features, right


def _probabilities(confidence: ArrayLike, correct: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    values, right = _scores(confidence, correct)
    outside = (values < 0) | (values > 1)
    if outside.any():
        row = int(np.argmax(outside))
        raise ValueError(f"confidence {row} is {values[row]}, expected a probability in [0, 1]")
    return values, right
