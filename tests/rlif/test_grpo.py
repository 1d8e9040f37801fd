"""Advantages and loss are the formulas of the papers, written out again here by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlif.grpo import group_advantages, kl_to_reference, policy_loss


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


def scalar_loss(
    logprob: list[list[float]],
    old: list[list[float]],
    advantages: list[float],
    mask: list[list[bool]],
    reference: list[list[float]],
    epsilon: float,
    beta: float,
) -> float:
    """TRL's `loss_type="dapo"` with symmetric clipping, one token at a time."""
    total, tokens = 0.0, 0
    for i, advantage in enumerate(advantages):
        for t, counts in enumerate(mask[i]):
            if not counts:
                continue
            ratio = math.exp(logprob[i][t] - old[i][t])
            clipped = min(max(ratio, 1 - epsilon), 1 + epsilon)
            difference = reference[i][t] - logprob[i][t]
            total += -min(ratio * advantage, clipped * advantage) + beta * (math.exp(difference) - difference - 1)
            tokens += 1
    return total / tokens


@given(seed=st.integers(0, 2**31), beta=st.sampled_from([0.0, 0.005, 1.0]))
def test_the_loss_is_the_formula(seed: int, beta: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logprob, old, reference = (-3 * torch.rand(4, 5, generator=generator) for _ in range(3))
    advantages = torch.randn(4, generator=generator)
    lengths = torch.randint(1, 6, (4, 1), generator=generator)
    mask = torch.arange(5) < lengths
    loss = policy_loss(
        logprob,
        old,
        advantages,
        mask,
        num_tokens=int(mask.sum()),
        epsilon=0.2,
        beta=beta,
        reference_logprob=reference if beta else None,
    )
    expected = scalar_loss(
        logprob.tolist(), old.tolist(), advantages.tolist(), mask.tolist(), reference.tolist(), 0.2, beta
    )
    assert loss.item() == pytest.approx(expected, rel=1e-5, abs=1e-5)  # float32 sums of at most 20 terms of order 10


def test_on_policy_the_gradient_is_that_of_advantage_times_logprob() -> None:
    logprob = torch.tensor([[-0.5, -1.0, -2.0], [-0.1, -0.2, -0.3]], requires_grad=True)
    advantages, mask = torch.tensor([2.0, -1.0]), torch.tensor([[True, True, False], [True, True, True]])
    loss = policy_loss(logprob, logprob.detach(), advantages, mask, num_tokens=5, epsilon=0.2)
    loss.backward()
    assert loss.item() == pytest.approx(-(2 * 2.0 - 3 * 1.0) / 5)  # the ratio is 1 everywhere
    assert logprob.grad is not None
    torch.testing.assert_close(logprob.grad, torch.tensor([[-0.4, -0.4, 0.0], [0.2, 0.2, 0.2]]))


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "moves"),
    [(0.3, 1.0, False), (0.3, -1.0, True), (-0.3, 1.0, True), (-0.3, -1.0, False), (0.1, 1.0, True)],
)
def test_clipping_stops_the_gradient_only_where_going_on_would_gain(
    log_ratio: float, advantage: float, moves: bool
) -> None:
    logprob = torch.tensor([[-1.0]], requires_grad=True)
    old = logprob.detach() - log_ratio
    policy_loss(logprob, old, torch.tensor([advantage]), torch.tensor([[True]]), num_tokens=1, epsilon=0.2).backward()
    assert logprob.grad is not None
    assert (logprob.grad.item() != 0) == moves


def test_what_is_masked_neither_counts_nor_gets_a_gradient() -> None:
    logprob = torch.tensor([[-1.0, -7.0]], requires_grad=True)
    loss = policy_loss(
        logprob,
        torch.tensor([[-1.0, -5.0]]),
        torch.tensor([1.0]),
        torch.tensor([[True, False]]),
        num_tokens=1,
        epsilon=0.2,
        beta=0.1,
        reference_logprob=torch.tensor([[-1.0, -3.0]]),
    )
    loss.backward()
    assert loss.item() == -1.0
    assert logprob.grad is not None
    assert logprob.grad.tolist() == [[-1.0, 0.0]]


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
