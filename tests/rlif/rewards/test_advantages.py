"""Advantages are the formulas of the papers, written out again here by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlif.rewards.advantages import equal_groups, group_advantages, unscaled_advantages


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


def test_a_small_spread_of_large_rewards_is_kept() -> None:
    rewards = torch.tensor([1e8, 1e8 + 1, 1e8 + 2, 1e8 + 3], dtype=torch.float64)
    small = torch.tensor([0.0, 1, 2, 3], dtype=torch.float64)
    # The mean of numbers near 1e8 is right to 1e-8 of a float64.
    torch.testing.assert_close(group_advantages(rewards, 4), group_advantages(small, 4), atol=1e-7, rtol=0)


def test_a_completion_without_a_reward_is_left_out_of_its_group() -> None:
    nan = math.nan
    rewards = torch.tensor([1.0, nan, 2.0, 3.0, nan, 5.0, nan, nan, nan, nan, nan, nan])
    advantages = group_advantages(rewards, 4)
    assert advantages[:4].tolist() == pytest.approx([-1, 0, 0, 1], abs=2e-4)  # the 1e-4 in the divisor
    assert advantages[4:].tolist() == [0] * 8
    assert equal_groups(rewards, 4).tolist() == [False, True, True]
    assert unscaled_advantages(rewards, 4)[:4].tolist() == [-1, 0, 0, 1]
