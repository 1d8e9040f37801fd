"""Advantages are the formulas of the papers, written out again here by hand."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from rlif.rewards.advantages import group_advantages, unscaled_advantages


def test_advantages_are_standardised_within_each_group() -> None:
    rewards = torch.tensor([1.0, 2.0, 3.0, 6.0, 10.0, 10.0, 10.0, 14.0])
    # By hand: means 3 and 11; unbiased variances (4+1+0+9)/3 and (1+1+1+9)/3.
    first, second = math.sqrt(14 / 3) + 1e-4, math.sqrt(12 / 3) + 1e-4
    expected = torch.tensor([-2 / first, -1 / first, 0.0, 3 / first, -1 / second, -1 / second, -1 / second, 3 / second])
    torch.testing.assert_close(group_advantages(rewards, 4), expected)


def test_a_group_without_differences_has_no_advantage_and_leaves_the_others_alone() -> None:
    rewards = torch.tensor([0.3, 0.3, 0.3, 1.0, 2.0, 3.0])
    advantages = group_advantages(rewards, 3)
    assert advantages[:3].tolist() == [0.0, 0.0, 0.0]
    torch.testing.assert_close(
        advantages[3:], torch.tensor([-1.0, 0.0, 1.0]), atol=2e-4, rtol=0
    )  # the 1e-4 in the divisor


@given(rewards=st.lists(st.floats(-100, 100, width=32), min_size=8, max_size=8), shift=st.floats(-100, 100, width=32))
def test_a_constant_added_to_all_rewards_of_a_group_changes_nothing(rewards: list[float], shift: float) -> None:
    # Intuitor's code drops log V from self-certainty on this ground. In float64, so that only the formula counts; the
    # bound allows for the rounding of the sum, 200 * 1e-16, divided by the smallest divisor, 1e-4.
    values = torch.tensor(rewards, dtype=torch.float64)
    torch.testing.assert_close(group_advantages(values + shift, 8), group_advantages(values, 8), atol=1e-9, rtol=0)


def test_advantages_may_be_scaled_by_the_batch_or_not_at_all() -> None:
    rewards = torch.tensor([1.0, 2.0, 3.0, 6.0])
    centred = torch.tensor([-0.5, 0.5, -1.5, 1.5])
    torch.testing.assert_close(group_advantages(rewards, 2, std=2.0), centred / 2.0001)
    torch.testing.assert_close(unscaled_advantages(rewards, 2), centred)


def test_a_group_of_equal_rewards_is_not_pushed_anywhere() -> None:
    assert (group_advantages(torch.full((8,), -4.7), 8) == 0).all()  # whose mean is not exactly -4.7
    assert group_advantages(torch.full((8,), torch.inf), 8).isnan().all()
