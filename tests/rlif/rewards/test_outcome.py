"""RISE rewards solving and verifying by the same three numbers."""

from __future__ import annotations

from rlif.answers.extract import Stated, stated_answer
from rlif.rewards import load_rewards
from rlif.rewards.outcome import rise, rise_majority


def stated(*texts: str) -> list[Stated | None]:
    return [stated_answer(text) for text in texts]


def test_the_rewards_are_those_of_the_paper() -> None:
    assert rise(stated(r"\boxed{4}", r"\boxed{5}", "4"), ["4"] * 3) == [1.0, -0.5, -1.0]


def test_a_verification_is_right_if_it_states_the_number_that_the_solution_got() -> None:
    verifications = stated(r"\boxed{-0.5}", r"\boxed{-\frac{1}{2}}", r"\boxed{1}", r"\boxed{-1.0}", "wrong")
    assert rise(verifications, ["-0.5"] * 5) == [1.0, 1.0, -0.5, -0.5, -1.0]


def test_without_labels_the_majority_is_right_and_a_group_without_one_says_nothing_of_answers() -> None:
    assert rise_majority(stated("#### 4", "#### 4", "#### 5", "?"), 4) == [1.0, 1.0, -0.5, -1.0]
    assert rise_majority(stated("#### 4", "#### 5", "?"), 3) == [None, None, -1.0]


def test_only_the_reward_by_gold_answers_needs_them() -> None:
    assert load_rewards("rise").needs_answers
    assert not load_rewards("rise_majority").needs_answers
