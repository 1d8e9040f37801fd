"""Choices are deterministic, votes are counted by answer, and estimates are what sampling would give."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlif.answers.agreement import majorities
from rlif.answers.extract import stated_answer
from rlif.metrics.selection import (
    BORDA_POWERS,
    answer_clusters,
    best_choice,
    borda_choice,
    chosen,
    majority_at_k,
    majority_choice,
    mean_over_prompts,
    pass_at_k,
)


def test_answers_are_clustered_by_value_and_not_by_their_characters() -> None:
    clusters = answer_clusters([["4", "1/2", None, "4.0", "0.5"], ["x", "x", "y", None, None]])
    assert clusters.tolist() == [[0, 1, -1, 0, 1], [0, 0, 1, -1, -1]]


@given(right=st.lists(st.booleans(), min_size=1, max_size=7), data=st.data())
def test_pass_at_k_is_the_share_of_all_ways_to_take_k_of_which_one_is_right(
    right: list[bool], data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, len(right)))
    ways = list(itertools.combinations(right, k))
    (estimate,) = pass_at_k([right], k)
    assert estimate == pytest.approx(sum(map(any, ways)) / len(ways), abs=1e-12)  # a quotient of small integers


def test_pass_at_n_is_the_oracle_and_pass_at_1_the_mean() -> None:
    correct = np.array([[True, False, False], [False, False, False]])
    assert pass_at_k(correct, 3).tolist() == [1.0, 0.0]
    assert pass_at_k(correct, 1) == pytest.approx([1 / 3, 0])
    with pytest.raises(ValueError, match="k is 4, expected 1 to 3"):
        pass_at_k(correct, 4)


GROUPS = st.lists(st.tuples(st.integers(-1, 3), st.integers(-2, 2)), min_size=1, max_size=9)


@given(group=GROUPS)
def test_borda_with_power_0_is_the_majority_whatever_the_scores(group: list[tuple[int, int]]) -> None:
    numbers, scores = zip(*group, strict=True)
    (choice,) = borda_choice([scores], [numbers], 0.0)
    assert choice == majority_choice([numbers])[0]
    # The same winner as the training loop's majority vote over texts.
    (expected,) = majorities(
        [stated_answer("" if number < 0 else f"#### {number}") for number in numbers], len(numbers)
    )
    assert choice == (expected[0] if expected else -1)


@given(group=GROUPS, power=st.sampled_from(BORDA_POWERS))
def test_borda_is_the_paper_s_sum_of_ranked_votes(group: list[tuple[int, int]], power: float) -> None:
    numbers, scores = zip(*group, strict=True)
    votes: dict[int, float] = {}
    for place, (number, score) in enumerate(group):
        rank = 1 + sum(other > score or (other == score and i < place) for i, other in enumerate(scores))
        if number >= 0:
            votes[number] = votes.get(number, 0.0) + (len(group) - rank + 1) ** power
    (choice,) = borda_choice([scores], [numbers], power)
    if not votes:
        assert choice == -1
    else:
        assert votes[numbers[choice]] == pytest.approx(max(votes.values()), abs=1e-9)  # sums in another order
        assert numbers.index(numbers[choice]) == choice


def test_a_large_power_follows_confidence_and_a_small_one_the_crowd() -> None:
    scores, numbers = [[9.0, 1.0, 2.0, 3.0]], [[0, 1, 1, 1]]
    assert borda_choice(scores, numbers, 0.5).tolist() == [1]
    assert borda_choice(scores, numbers, 8.0).tolist() == [0]


def test_a_completion_without_an_answer_keeps_its_rank_and_casts_no_vote() -> None:
    # The first answer has 4 votes, the second 3 + 2. Were the last left out of the ranks: 3 and 2 + 1, a tie.
    assert borda_choice([[4.0, 3.0, 2.0, 1.0]], [[0, 1, 1, -1]], 1.0).tolist() == [1]
    # Nor does it win, however confident it is.
    assert borda_choice([[9.0, 1.0]], [[-1, 0]], 1.0).tolist() == [1]


def test_the_best_states_an_answer_where_any_completion_does() -> None:
    scores = [[9.0, 1.0, 2.0]] * 3 + [[1.0, -np.inf, 2.0]]
    clusters = [[-1, 0, 0], [0, -1, 1], [-1, -1, -1], [-1, 0, -1]]
    assert best_choice(scores, clusters).tolist() == [2, 0, 0, 1]
    with pytest.raises(ValueError, match=r"score has shape \(1, 2\) and clusters \(1, 3\)"):
        best_choice([[1.0, 2.0]], [[0, 1, 2]])


def test_ties_go_to_the_first() -> None:
    assert best_choice([[1.0, 3.0, 3.0]], [[0, 1, 2]]).tolist() == [1]
    assert majority_choice([[2, 0, 0, 2]]).tolist() == [0]
    assert majority_choice([[-1, -1]]).tolist() == [-1]


def test_what_was_not_chosen_is_not_right() -> None:
    correct = [[False, True], [True, True]]
    assert chosen(correct, [1, -1]).tolist() == [1.0, 0.0]


def test_the_majority_of_k_uses_every_block_of_k() -> None:
    correct, clusters = [[True, False, False, False, True]], [[0, 1, 1, 1, 0]]
    assert majority_at_k(correct, clusters, 1).tolist() == [0.4]
    assert majority_at_k(correct, clusters, 2).tolist() == [0.5]  # the first two tie for the first, the next are wrong
    assert majority_at_k(correct, clusters, 5).tolist() == [0.0]
    with pytest.raises(ValueError, match="k is 6, expected 1 to 5"):
        majority_at_k(correct, clusters, 6)


def test_the_standard_error_is_over_prompts() -> None:
    assert mean_over_prompts([0.0, 1.0, 1.0, 0.0]) == pytest.approx((0.5, math.sqrt(1 / 3) / 2))
    assert math.isnan(mean_over_prompts([1.0]).standard_error)
    with pytest.raises(ValueError, match=r"shape \(0,\)"):
        mean_over_prompts([])
