"""The definition of the loss, its closed form, and what both are worth in numbers."""

import inspect
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from losses import LOSSES, VARIANTS, exact, loss_inputs, near
from rlif_kernels import TokenStats, importance_weight, k3_kl, policy_loss, reference
from rlif_kernels.checks import RowArguments
from rlif_kernels.grpo_loss import sequences_of
from rlif_kernels.loss_arguments import loss_arguments
from rlif_kernels.loss_options import VARIANT_DEFAULTS, selects_tokens, variant_numbers
from rlif_kernels.loss_terms import token_terms
from rlif_kernels.rows import Rows
from rlif_kernels.stats import DEFAULT_OUTPUTS, IGNORE_INDEX
from rlif_kernels.token_selection import clip_cov_tokens, covariances, high_entropy_tokens, kl_cov_tokens

ALL = LOSSES | VARIANTS
# The ratio of these is held by a detach that finite differences do not see.
DETACHED = ("cispo", "vespo")
ACTIVE = torch.tensor([[True, True, True, True], [True, True, False, False]])


def options_of(case):
    """The case's options of the variants, and all others that the loss is told, with their defaults."""
    known = inspect.signature(loss_arguments).parameters
    defaults = {name: option.default for name, option in inspect.signature(policy_loss).parameters.items()}
    named = {name: defaults[name] for name, option in known.items() if option.kind is option.KEYWORD_ONLY}
    variant = {name: case[name] for name in VARIANT_DEFAULTS if name in case}
    return variant, named | {name: value for name, value in case.items() if name in named}


@pytest.mark.parametrize("case", [name for name, case in ALL.items() if case.get("loss_type") not in DETACHED])
def test_the_reference_is_differentiated_correctly(case):
    logits = (2 * torch.randn(4, 6, 11, dtype=torch.float64)).requires_grad_()
    arguments, options = loss_inputs(ALL[case], logits)
    logprob = reference.token_stats(logits.detach(), arguments[0]).logprob
    given = exact(near(logprob, arguments))
    # On-policy the ratio is held at 1 by a detach that finite differences do not see: there they are given the old.
    if given[2] is None:
        given = (*given[:2], logprob, given[3])
    torch.autograd.gradcheck(lambda x: reference.grpo_loss(x, *given, **options).loss, (logits,))


@pytest.mark.parametrize(
    "case", [name for name in ALL if not selects_tokens(variant_numbers(options_of(ALL[name])[0]))]
)
def test_the_closed_form_is_the_derivative_of_the_definition(case):
    arguments, options = loss_inputs(ALL[case], torch.randn(4, 6, 11))
    mask = options.pop("mask")
    leaves = [(-torch.rand(4, 6, dtype=torch.float64)).requires_grad_() for _ in range(3)]
    # What the ops are given is rounded to float32.
    given = exact([x if x is None or x.dtype == torch.long else x.float() for x in near(leaves[0].detach(), arguments)])
    weight = options.pop("token_weight", None)
    stats = TokenStats(*(leaf.where(mask, 0) for leaf in leaves))
    expected = policy_loss(stats, *given[1:], weight, mask=mask, **options)
    expected.loss.backward()

    targets = given[0].where(mask, IGNORE_INDEX)
    rows = RowArguments(Rows(targets, 1.0, 0.0, 11), DEFAULT_OUTPUTS, "torch", "", 11)
    variant, named = options_of(options)
    _, loss = loss_arguments(rows, *given[1:], weight, variant, **named)
    fields = {name: value.flatten() for name, value in zip(DEFAULT_OUTPUTS, stats[:3], strict=True)}
    sequences = sequences_of(targets, loss.sequence_length)
    terms = token_terms(fields, loss.loss_rows, loss.options, loss.term, sequences)
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
        ({"beta": 0.1, "kl": "full"}, "^beta is 0.1 and full_kl is None; expected the reference's divergences, or 0"),
        ({"kl": "k1"}, "^kl is 'k1'; expected one of"),
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


def test_the_corrected_estimate_has_the_mean_of_the_divergence_in_value_and_gradient_off_policy():
    # Of all tokens of the vocabulary, each of which a sampler that knows nothing draws as often.
    generator = torch.Generator().manual_seed(0)
    logits, other = torch.randn(2, 50, generator=generator, dtype=torch.float64)
    logits, other = logits.requires_grad_(), other.log_softmax(dim=-1)
    old, everywhere = torch.full((1, 50), -math.log(50.0), dtype=torch.float64), torch.ones(1, 50, dtype=torch.bool)
    policy = logits.log_softmax(dim=-1)
    result = policy_loss(
        TokenStats(logprob=policy[None]), torch.zeros(1), old, other[None], mask=everywhere, beta=1.0,
        kl="k3_corrected", loss_type="bnpo",
    )  # fmt: skip
    expected = (policy.exp() * (policy - other)).sum()
    torch.testing.assert_close(result.loss, expected)
    torch.testing.assert_close(result.kl.mean(), expected.detach())
    gradients = [torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (result.loss, expected)]
    torch.testing.assert_close(*gradients)


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


# ---------------------------------------------------------------- what each of the other losses is worth


def loss_of(ratios, advantages, **options):
    """The loss of one sequence of tokens with these ratios, and its gradient by their log-probabilities."""
    logprob = torch.tensor([ratios], dtype=torch.float64).log().requires_grad_()
    old = torch.zeros_like(logprob)
    mask = torch.ones_like(logprob, dtype=torch.bool)
    result = policy_loss(
        TokenStats(logprob, entropy=-logprob.detach()), torch.tensor([advantages], dtype=torch.float64), old, mask=mask,
        **options,
    )  # fmt: skip
    result.loss.backward()
    return result, logprob.grad[0].tolist()


def test_cispo_bounds_the_weight_and_keeps_the_gradient():
    result, gradient = loss_of([4.0, 0.5], [1.0, -1.0], loss_type="cispo", epsilon_high=3.0, num_items_in_batch=1)
    assert gradient == pytest.approx([-3.0, 0.5])
    assert result.loss.item() == pytest.approx(-3 * math.log(4) + 0.5 * math.log(0.5))
    assert result.clipped.tolist() == [[True, False]]


def test_sapo_has_the_slope_of_the_ratio_at_1_and_less_on_both_sides():
    options = {"loss_type": "sapo", "sapo_temperature_pos": 2.0, "sapo_temperature_neg": 3.0}
    for ratio, advantage, temperature in ((1.0, 1.0, 2.0), (1.5, 1.0, 2.0), (0.5, -1.0, 3.0)):
        gate = 1 / (1 + math.exp(-temperature * (ratio - 1)))
        result, (gradient,) = loss_of([ratio], [advantage], **options)
        assert result.loss.item() == pytest.approx(-gate * 4 / temperature * advantage)
        assert gradient == pytest.approx(-4 * gate * (1 - gate) * ratio * advantage)


def test_vespo_weighs_a_sequence_by_the_product_of_its_ratios():
    _, gradient = loss_of([2.0, 0.25], [1.0, 1.0], loss_type="vespo", num_items_in_batch=1)
    weight = math.exp(3 + 2 * math.log(0.5) - 3 * 0.5)
    assert gradient == pytest.approx([-weight, -weight])
    _, gradient = loss_of([2.0, 0.25], [-1.0, -1.0], loss_type="vespo", num_items_in_batch=1)
    weight = math.exp(2 + 3 * math.log(0.5) - 2 * 0.5)
    assert gradient == pytest.approx([weight, weight])


def test_gmpo_weighs_a_sequence_by_the_geometric_mean_of_its_clipped_ratios():
    ratios = [math.exp(0.9), math.exp(-0.1)]
    result, gradient = loss_of(ratios, [1.0, 1.0], loss_type="gmpo", epsilon_low=0.4)
    mean = math.exp((0.4 - 0.1) / 2)
    assert result.loss.item() == pytest.approx(-mean)
    assert gradient == pytest.approx([0.0, -mean / 2])
    assert result.clipped.tolist() == [[True, False]]


def test_luspo_adds_up_the_tokens_of_a_sequence():
    result, gradient = loss_of([1.0] * 3, [2.0] * 3, loss_type="luspo", importance_sampling_level="sequence")
    assert result.loss.item() == pytest.approx(-6)
    assert gradient == pytest.approx([-2.0] * 3)


def test_a_token_weight_multiplies_the_policy_term_and_not_the_penalty():
    stats = TokenStats(torch.zeros(1, 2, dtype=torch.float64))
    options = {"mask": torch.ones(1, 2, dtype=torch.bool), "beta": 1.0}
    ref = torch.ones(1, 2, dtype=torch.float64)
    weight = torch.tensor([[0.5, 0.0]], dtype=torch.float64)
    loss = policy_loss(stats, torch.ones(1, dtype=torch.float64), None, ref, weight, **options).loss
    assert loss.item() == pytest.approx(-0.25 + math.e - 2)


# ---------------------------------------------------------------- tokens that all tokens choose


def test_the_tokens_of_high_entropy_are_those_from_the_quantile_on():
    entropy = torch.tensor([[0.1, 0.9, 0.5, 0.3], [0.7, 9.0, 0.2, 0.4]])
    mask = torch.tensor([[True] * 4, [True, False, True, True]])
    # Of seven tokens the quantile 0.75 lies half-way between the third and the second: 0.6.
    assert high_entropy_tokens(entropy, mask, 0.25).nonzero().tolist() == [[0, 1], [1, 0]]
    assert torch.equal(high_entropy_tokens(entropy, mask, 1.0), mask)
    assert high_entropy_tokens(entropy, mask, 0.0).nonzero().tolist() == [[0, 1]]
    assert not high_entropy_tokens(entropy, torch.zeros_like(mask), 0.5).any()


def test_clip_cov_leaves_out_tokens_of_the_range_that_are_not_clipped_and_no_more_than_its_share():
    covariance = torch.tensor([[2.0, 3.0, 0.5, 6.0, 2.5, 2.0, 4.0, 1.5]])
    mask = torch.tensor([[True] * 7 + [False]])
    clipped = torch.zeros_like(mask)
    clipped[0, 1] = True
    allowed = {0, 4, 5, 6}
    seen = set()
    for seed in range(40):
        torch.manual_seed(seed)
        chosen = clip_cov_tokens(covariance, clipped, mask, 0.3, 1.0, 5.0).nonzero()[:, 1].tolist()
        assert len(chosen) == 2  # 0.3 of seven, rounded down
        seen |= set(chosen)
    assert seen == allowed
    assert clip_cov_tokens(covariance, clipped, mask, 1e-4, 1.0, 5.0).sum() == 1


def test_kl_cov_holds_the_tokens_of_the_largest_covariance():
    logprob = torch.tensor([[-1.0, -3.0, -2.0, -9.0]])
    advantages = torch.tensor([[2.0, -2.0, 0.0, 7.0]])
    mask = torch.tensor([[True, True, True, False]])
    covariance = covariances(logprob, advantages, mask)
    torch.testing.assert_close(covariance[:, :3], torch.tensor([[2.0, 2.0, 0.0]]))
    assert kl_cov_tokens(torch.tensor([[1.0, 5.0, 2.0, 9.0]]), mask, 0.5).tolist() == [[False, True, False, False]]


def test_kl_cov_lets_the_ratio_be_and_holds_its_tokens_by_the_log_ratio():
    # Covariances of 0.3, 0 and -0.3.
    ratios = [math.exp(0.9), 1.0, math.exp(-0.9)]
    result, gradient = loss_of(ratios, [1.0, 0.0, 1.0], kl_cov_ratio=0.4, kl_cov_coef=0.5, num_items_in_batch=1)
    # One token of three is held: the first.
    assert gradient == pytest.approx([-math.exp(0.9) + 0.5, 0.0, -math.exp(-0.9)])
    assert result.loss.item() == pytest.approx(-math.exp(0.9) - math.exp(-0.9) + 0.5 * 0.9)
    assert not result.clipped.any()


# ---------------------------------------------------------------- the correction of a sampler


@pytest.mark.parametrize(
    ("mode", "limits", "expected"),
    [
        ("token_truncate", {}, [[0.5, 3.0, 1.0], [1.0, 1.0, 1.0]]),
        ("token_truncate", {"clip_min": 0.8, "clip_max": None}, [[0.8, 8.0, 1.0], [1.0, 1.0, 1.0]]),
        ("token_mask", {}, [[0.5, 0.0, 1.0], [1.0, 1.0, 1.0]]),
        ("token_mask", {"clip_min": 0.8, "clip_max": None}, [[0.0, 8.0, 1.0], [1.0, 1.0, 1.0]]),
        ("sequence_truncate", {}, [[3.0, 3.0, 3.0], [1.0, 1.0, 1.0]]),
        ("sequence_mask", {}, [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]),
        ("sequence_mask", {"clip_max": 5.0}, [[4.0, 4.0, 4.0], [1.0, 1.0, 1.0]]),
        ("token_truncate", {"clip_max": None}, [[0.5, 8.0, 1.0], [1.0, 1.0, 1.0]]),
    ],
)
def test_a_sampler_is_corrected_by_bounded_ratios(mode, limits, expected):
    # A token that the sampler has no number for has the ratio 1, and so has one that does not count.
    logprob = torch.tensor([[0.5, 8.0, 7.0], [1.0, 2.0, 9.0]]).log().requires_grad_()
    sampler = torch.tensor([[0.0, 0.0, math.nan], [0.0, math.log(2.0), 0.0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    weight = importance_weight(logprob, sampler, mask=mask, mode=mode, **limits)
    torch.testing.assert_close(weight, torch.tensor(expected))
    assert not weight.requires_grad


def test_an_unknown_correction_is_refused():
    with pytest.raises(ValueError, match=r"^mode is 'tis'; expected one of \('token_truncate'"):
        importance_weight(torch.zeros(1, 1), torch.zeros(1, 1), mask=torch.ones(1, 1, dtype=torch.bool), mode="tis")
