"""Choose one of N completions of a prompt by its answer and its confidence, and measure what that is worth.

A choice is the place of a completion in its group, (P,) int64 for P prompts; -1 where there is none to choose. An
answer is known by its cluster, (P, N) int64: completions with the same number state the same answer, -1 states none.
Answers are the same where `rlif.answers.matching.answers_match` says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlif.answers.matching import matching_answers

# Powers of the rank that weighs a vote; 0 is the majority vote.
BORDA_POWERS = (0.0, 0.3, 0.5, 0.7, 1.0, 1.2, 1.5, 2.0)


class Mean(NamedTuple):
    """A mean over prompts, which are taken for a sample of all that could be asked."""

    value: float
    standard_error: float
    """NaN for a single prompt."""


def mean_over_prompts(values: ArrayLike) -> Mean:
    """Return the mean of (P,) numbers, one for each prompt, with its standard error.

    Completions of one prompt depend on each other, so what is averaged is one number a prompt.

    Raises:
        ValueError: not (P,), or P = 0.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or not len(numbers):
        raise ValueError(f"values have shape {numbers.shape}, expected one number for each of at least one prompt")
    error = numbers.std(ddof=1) / math.sqrt(len(numbers)) if len(numbers) > 1 else math.nan
    return Mean(float(numbers.mean()), float(error))


def answer_clusters(answers: Sequence[Sequence[str | None]]) -> NDArray[np.int64]:
    """Return (P, N) numbers of the N answers of each of P prompts: the same for the same answer, -1 for None.

    Within a prompt they count from 0 in the order in which the answers first appear.
    """
    clusters = np.full((len(answers), len(answers[0]) if answers else 0), -1, dtype=np.int64)
    for row, group in enumerate(answers):
        for number, places in enumerate(matching_answers(group)):
            clusters[row, places] = number
    return clusters


def pass_at_k(correct: ArrayLike, k: int) -> NDArray[np.float64]:
    """The chance that at least one of k completions is right, without bias from N >= k of them (arXiv 2107.03374).

    1 - C(n - c, k) / C(n, k), where c of n completions are right.

    Args:
        correct: (P, N) bool.
        k: completions that may be tried.

    Returns:
        (P,) float64, one estimate a prompt.

    Raises:
        ValueError: k is not from 1 to N.
    """
    right = _groups(correct)
    n = right.shape[1]
    if not 1 <= k <= n:
        raise ValueError(f"k is {k}, expected 1 to {n}, the completions of a prompt")
    none_right = [math.comb(n - c, k) / math.comb(n, k) for c in range(n + 1)]
    return 1.0 - np.array(none_right)[right.sum(axis=1)]


def borda_choice(score: ArrayLike, clusters: ArrayLike, power: float) -> NDArray[np.int64]:
    """Return the answer with the most votes; a completion of rank r has (N - r + 1)^power of them (arXiv 2502.18581).

    Rank 1 is the highest score, and of equal scores the first completion has the lower rank. A completion without an
    answer keeps its rank and casts no vote. Of answers with equally many votes the one that appears first wins. Power 0
    is the majority vote.

    Args:
        score: (P, N) numbers; self-certainty in the paper.
        clusters: (P, N), see above.
        power: of the rank; at least 0.

    Returns:
        (P,) the first completion that states the winner; -1 where none states an answer.
    """
    values, answers = _same_groups(score, clusters)
    count = values.shape[1]
    weights = [(count - place) ** power for place in range(count)]
    choice = np.full(len(values), -1, dtype=np.int64)
    for row, (order, group) in enumerate(zip(np.argsort(-values, axis=1, kind="stable"), answers, strict=True)):
        ballots: dict[int, list[float]] = {int(number): [] for number in group if number >= 0}
        for weight, place in zip(weights, order, strict=True):
            if group[place] >= 0:
                ballots[int(group[place])].append(weight)
        if ballots:
            # Summed exactly, so that the same votes are the same sum in whatever order they were cast.
            winner = max(ballots, key=lambda number: math.fsum(ballots[number]))
            choice[row] = int(np.argmax(group == winner))
    return choice


def weighted_choice(weights: ArrayLike, clusters: ArrayLike) -> NDArray[np.int64]:
    """Return the answer whose completions are the most confident together: the largest sum of weights.

    With verbalised confidence as weights it is the vote of arXiv 2507.16806. Of answers with equal sums the one that
    appears first wins.

    Args:
        weights: (P, N) numbers, at least 0.
        clusters: (P, N), see above.

    Returns:
        (P,) the first completion that states the winner; -1 where none states an answer.
    """
    values, answers = _same_groups(weights, clusters)
    choice = np.full(len(values), -1, dtype=np.int64)
    for row, (group, each) in enumerate(zip(answers, values, strict=True)):
        if numbers := list(dict.fromkeys(group[group >= 0].tolist())):
            winner = max(numbers, key=lambda number: math.fsum(each[group == number]))
            choice[row] = int(np.argmax(group == winner))
    return choice


def majority_choice(clusters: ArrayLike) -> NDArray[np.int64]:
    """Return the most common answer; of equally common ones the first.

    Returns:
        (P,) the first completion that states it; -1 where none states an answer.
    """
    answers = _groups(clusters)
    return borda_choice(np.zeros(answers.shape), answers, power=0.0)


def best_choice(score: ArrayLike, clusters: ArrayLike) -> NDArray[np.int64]:
    """Return the completion with the highest score of those that state an answer; of equal scores the first.

    So do the authors of arXiv 2502.18581. Where none states an answer the highest score of all decides.

    Args:
        score: (P, N) numbers.
        clusters: (P, N), see above.

    Returns:
        (P,) places; never -1.
    """
    values, answers = _same_groups(score, clusters)
    stated = answers >= 0
    may_win = stated | ~stated.any(axis=1, keepdims=True)
    # The first of the best: a score may be -inf, so that no number could stand for what is left out.
    best = values.max(axis=1, keepdims=True, where=may_win, initial=-np.inf)
    return (may_win & (values == best)).argmax(axis=1)


def chosen(values: ArrayLike, choice: ArrayLike) -> NDArray[np.float64]:
    """(P,) float64, what (P, N) values say of the chosen completion; 0 where none was chosen."""
    table, places = _groups(values), np.asarray(choice)
    picked = np.take_along_axis(table, np.maximum(places, 0)[:, None], axis=1)[:, 0]
    return np.where(places >= 0, picked, 0).astype(np.float64)


def majority_at_k(correct: ArrayLike, clusters: ArrayLike, k: int) -> NDArray[np.float64]:
    """How often the majority of k completions is right: the mean over the N // k times k that follow each other.

    Args:
        correct: (P, N) bool.
        clusters: (P, N), see above.
        k: completions that vote.

    Returns:
        (P,) float64, one estimate a prompt.

    Raises:
        ValueError: k is not from 1 to N.
    """
    right, answers = _groups(correct), _groups(clusters)
    prompts, count = right.shape
    if not 1 <= k <= count:
        raise ValueError(f"k is {k}, expected 1 to {count}, the completions of a prompt")
    blocks = count // k
    right, answers = (table[:, : blocks * k].reshape(prompts * blocks, k) for table in (right, answers))
    return chosen(right, majority_choice(answers)).reshape(prompts, blocks).mean(axis=1)


def _same_groups(score: ArrayLike, clusters: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    values, answers = _groups(score), _groups(clusters)
    if values.shape != answers.shape:
        raise ValueError(f"score has shape {values.shape} and clusters {answers.shape}, expected the same")
    return values, answers


def _groups(values: ArrayLike) -> NDArray[Any]:
    table = np.asarray(values)
    if table.ndim != 2 or 0 in table.shape:
        raise ValueError(f"got shape {table.shape}, expected (prompts, completions of each), at least one of both")
    return table
