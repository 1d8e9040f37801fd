"""The definition of the loss, its closed form, and what both are worth in numbers."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from losses import LOSSES, exact, loss_inputs, near
from rlif_kernels import TokenStats, k3_kl, policy_loss, reference
from rlif_kernels.policy_loss import LossOptions, LossRows, sequence_average, token_terms, token_weights
from rlif_kernels.stats import DEFAULT_OUTPUTS

ACTIVE = torch.tensor([[True, True, True, True], [True, True, False, False]])


@pytest.mark.parametrize("case", LOSSES)
def test_the_reference_is_differentiated_correctly(case):
    logits = (2 * torch.randn(4, 6, 11, dtype=torch.float64)).requires_grad_()
    arguments, options = loss_inputs(LOSSES[case], logits)
    logprob = reference.token_stats(logits.detach(), arguments[0]).logprob
    given = exact(near(logprob, arguments))
    # On-policy the ratio is held at 1 by a detach that finite differences do not see: there they are given the old.
    if given[2] is None:
        given = (*given[:2], logprob, given[3])
    torch.autograd.gradcheck(lambda x: reference.grpo_loss(x, *given, **options).loss, (logits,))


@pytest.mark.parametrize("case", LOSSES)
def test_the_closed_form_is_the_derivative_of_the_definition(case):
    arguments, options = loss_inputs(LOSSES[case], torch.randn(4, 6, 11))
    mask = options["mask"]
    leaves = [(-torch.rand(4, 6, dtype=torch.float64)).requires_grad_() for _ in range(3)]
    given = exact(near(leaves[0].detach(), arguments))
    stats = TokenStats(*(leaf.where(mask, 0) for leaf in leaves))
    expected = policy_loss(stats, *given[1:], **options)
    expected.loss.backward()

    weights = token_weights(
        mask, options.get("loss_type", "dapo"), options.get("num_items_in_batch"), options.get("max_completion_length"),
        options.get("loss_scale", 1.0),
    )  # fmt: skip
    numbers = LossOptions(
        0.2, options.get("epsilon_high", 0.2), options.get("delta", math.inf),
        *(options.get(name, 0.0) for name in ("beta", "entropy_coef", "self_certainty_coef")),
    )  # fmt: skip
    rows = LossRows(given[1].view(4, -1).expand(4, 6), *weights, *given[2:]).map(torch.flatten)
    by_sequence = options.get("importance_sampling_level") == "sequence"
    average = sequence_average(mask.flatten(), 6, slice(None)) if by_sequence else None
    fields = {name: value.flatten() for name, value in zip(DEFAULT_OUTPUTS, stats[:3], strict=True)}
    terms = token_terms(fields, rows, numbers, average)
    # The weights are float32.
    torch.testing.assert_close(terms.loss.sum(), expected.loss, rtol=1e-6, atol=1e-7)
    assert torch.equal(terms.clipped.view(4, 6) & mask, expected.clipped)
    for name, leaf in zip(("logprob", "entropy", "self_certainty"), leaves, strict=True):
        gradient = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        closed = terms.grads.get(name, torch.zeros(24, dtype=torch.float64)).view(4, 6)
        torch.testing.assert_close(closed.double().where(mask, 0), gradient, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss_type": "ppo"}, "^loss_type is 'ppo'; expected one of"),
        ({"importance_sampling_level": "batch"}, "^importance_sampling_level is 'batch'; expected one of"),
        ({"beta": 0.1}, "^beta is 0.1 and ref_logprob is None"),
        ({"entropy_coef": 0.1}, "^stats.entropy is None and entropy_coef 0.1; expected the statistic, or 0"),
    ],
)
def test_a_loss_that_cannot_be_computed_says_why(changes, message):
    with pytest.raises(ValueError, match=message):
        policy_loss(TokenStats(logprob=torch.zeros(2, 4)), torch.ones(2), mask=ACTIVE, **changes)
    with pytest.raises(ValueError, match=r"^stats.logprob is None"):
        policy_loss(TokenStats(), torch.ones(2), mask=ACTIVE)


@given(st.floats(-20, 0), st.floats(-20, 0))
def test_the_kl_estimate_is_never_negative_and_zero_for_equal_policies(policy, other):
    values = torch.tensor([policy, other], dtype=torch.float64)
    assert k3_kl(values[0], values[1]).item() >= 0
    assert k3_kl(values[0], values[0]).item() == 0


def test_the_kl_estimate_is_unbiased():
    # Its expectation under the policy, over the whole vocabulary, is the KL divergence itself.
    generator = torch.Generator().manual_seed(0)
    policy, other = torch.randn(2, 50, generator=generator, dtype=torch.float64).log_softmax(dim=-1)
    expected = (policy.exp() * (policy - other)).sum()
    torch.testing.assert_close((policy.exp() * k3_kl(policy, other)).sum(), expected)


@pytest.mark.parametrize(
    ("loss_type", "expected"),
    [
        ("grpo", (1 + 2 + 3 + 4) / 4 / 2 + (5 + 6) / 2 / 2),
        ("bnpo", (1 + 2 + 3 + 4 + 5 + 6) / 6),
        ("dr_grpo", (1 + 2 + 3 + 4 + 5 + 6) / (2 * 10)),
        ("dapo", (1 + 2 + 3 + 4 + 5 + 6) / 12),
    ],
)
def test_tokens_add_up_as_the_loss_type_says(loss_type, expected):
    # On-policy a token's loss is minus its advantage.
    advantages = -torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8]])
    stats = TokenStats(logprob=torch.zeros(2, 4))
    options = {"num_items_in_batch": 12} if loss_type == "dapo" else {}
    loss = policy_loss(stats, advantages, mask=ACTIVE, loss_type=loss_type, max_completion_length=10, **options).loss
    assert loss.item() == pytest.approx(expected)


def test_the_ratio_gains_nothing_beyond_its_clip_range():
    # Ratios of 2, with a positive and a negative advantage, and of 1/2, with the same two.
    logprob = torch.tensor([[math.log(2.0), math.log(2.0), -math.log(2.0), -math.log(2.0)]], requires_grad=True)
    advantages = torch.tensor([[1.0, -1.0, 1.0, -1.0]])
    result = policy_loss(
        TokenStats(logprob=logprob), advantages, torch.zeros(1, 4), mask=torch.ones(1, 4, dtype=torch.bool),
        epsilon_low=0.2, epsilon_high=0.3, num_items_in_batch=1,
    )  # fmt: skip
    assert result.loss.item() == pytest.approx(-1.3 + 2 - 0.5 + 0.8)
    assert result.clipped.tolist() == [[True, False, False, True]]
    result.loss.backward()
    assert logprob.grad[0].tolist() == pytest.approx([0.0, 2.0, -0.5, 0.0])


def test_on_policy_equals_an_old_policy_of_the_same_log_probabilities():
    logits = torch.randn(2, 4, 7, dtype=torch.float64, requires_grad=True)
    targets, advantages = torch.randint(7, (2, 4)), torch.randn(2, dtype=torch.float64)
    old = reference.token_stats(logits.detach(), targets).logprob
    for level in ("token", "sequence"):
        results = [
            reference.grpo_loss(logits, targets, advantages, given, importance_sampling_level=level, mask=ACTIVE).loss
            for given in (None, old)
        ]
        torch.testing.assert_close(*results)
        torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in results))
