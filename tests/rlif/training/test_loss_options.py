"""Advantages and loss are the formulas of the papers, written out again here by hand."""

import math
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlif.rewards.advantages import group_advantages, unscaled_advantages
from rlif.training.loss_options import StepSize, kl_to_reference, loss_options
from rlif.training.options import LossType, TrainConfig
from rlif_kernels import TokenStats
from rlif_kernels.reference import policy_loss


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


@pytest.mark.parametrize("loss_type", get_args(LossType))
@pytest.mark.parametrize("num_processes", [1, 2])
def test_the_losses_of_parts_add_up_to_the_loss_of_the_whole(loss_type: LossType, num_processes: int) -> None:
    config = TrainConfig(
        model="m",
        data="d",
        loss_type=loss_type,
        beta=0.1,
        entropy_coef=0.3,
        self_certainty_coef=-0.2,
        max_completion_length=7,
    )
    generator = torch.Generator().manual_seed(0)
    stats = TokenStats(*(torch.randn(6, 5, generator=generator) for _ in range(3)))
    old, ref = (torch.randn(6, 5, generator=generator) for _ in range(2))
    advantages = torch.randn(6, generator=generator)
    mask = torch.rand(6, 5, generator=generator) < 0.7
    mask[4] = False  # as a truncated completion
    size = StepSize(6, int(mask.sum()))

    def loss(rows: slice) -> float:
        part = TokenStats(*(values[rows] for values in stats[:3]))
        counted = mask[rows]
        options = loss_options(config, size, len(counted), int(counted.sum()), num_processes)
        return policy_loss(part, advantages[rows], old[rows], ref[rows], mask=counted, **options).loss.item()

    whole = loss(slice(0, 6))
    parts = [loss(slice(0, 3)), loss(slice(3, 4)), loss(slice(4, 5)), loss(slice(5, 6))]
    assert sum(parts) == pytest.approx(whole, rel=1e-5)  # float32 sums in another order
    # Averaged over the processes, as their gradients are, it is the loss of the step: here by its definition in TRL.
    plain = {"beta": 0.1, "entropy_coef": 0.3, "self_certainty_coef": -0.2, "max_completion_length": 7}
    alone = policy_loss(stats, advantages, old, ref, mask=mask, loss_type=loss_type, **plain).loss.item()
    assert whole / num_processes == pytest.approx(alone, rel=1e-5)


@given(st.floats(-20, 0), st.floats(-20, 0))
def test_the_kl_estimate_is_never_negative_and_zero_for_equal_policies(policy: float, reference: float) -> None:
    values = torch.tensor([policy, reference], dtype=torch.float64)
    assert kl_to_reference(values[0], values[1]).item() >= 0
    assert kl_to_reference(values[0], values[0]).item() == 0


def test_the_kl_estimate_is_unbiased() -> None:
    # Its expectation under the policy, over the whole vocabulary, is the KL divergence itself.
    generator = torch.Generator().manual_seed(0)
    policy, reference = torch.randn(2, 50, generator=generator, dtype=torch.float64).log_softmax(dim=-1)
    expected = (policy.exp() * (policy - reference)).sum()
    torch.testing.assert_close((policy.exp() * kl_to_reference(policy, reference)).sum(), expected)
