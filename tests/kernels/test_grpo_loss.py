"""The loss from logits, fused: values, gradient, and what else `token_stats` promises of rows."""

import math
from itertools import product

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from comparison import DEVICE, mostly_interpreted, random_targets
from losses import (
    FAST_LOSSES,
    LOSSES,
    VARIANTS,
    assert_gradient_matches,
    assert_losses_match,
    exact,
    loss_inputs,
    near,
)
from rlif_kernels import grpo_loss, reference, token_stats
from rlif_kernels.backends.triton import launches
from rlif_kernels.loss_options import LossOptions


def check(logits, case, backend, inplace=False, **more):
    """Compare loss, statistics and gradient with the float64 reference."""
    arguments, options = loss_inputs((LOSSES | VARIANTS)[case], logits[..., : more.get("vocab_size")])
    options |= more
    rows = {name: more[name] for name in ("temperature", "softcap", "vocab_size") if name in more}
    arguments = near(token_stats(logits, arguments[0], **rows).logprob, arguments)
    leaf = logits.detach().clone().requires_grad_()
    ours = grpo_loss(leaf * 1, *arguments, backend=backend, inplace_backward=inplace, **options)
    doubled = logits.detach().double().requires_grad_()
    theirs = reference.grpo_loss(doubled, *exact(arguments), **options)
    assert_losses_match(ours, theirs)
    ours.loss.backward()
    theirs.loss.backward()
    assert_gradient_matches(leaf.grad, doubled.grad)
    return ours, leaf.grad


# In place is where the gradient is written, whatever the loss.
@pytest.mark.parametrize(
    ("case", "inplace"),
    mostly_interpreted(
        *product(LOSSES, (False, True)),
        fast=tuple(product(FAST_LOSSES, (False, True))),
        slow=tuple(product(LOSSES, (False,))),
    ),
)
def test_every_loss_matches_the_reference(case, inplace, backend):
    check(3 * torch.randn(4, 6, 300, device=DEVICE), case, backend, inplace)


# On-policy the kernels of the clipped loss serve every term; off-policy, and where tokens are chosen, they serve none.
@pytest.mark.parametrize(
    "case", mostly_interpreted(*VARIANTS, fast=("cispo, on-policy",), slow=("vespo", "weights", "high entropy"))
)
def test_every_variant_matches_the_reference(case, backend):
    check(3 * torch.randn(4, 6, 300, device=DEVICE), case, backend)


@pytest.mark.parametrize("case", ["vespo", "high entropy"])
def test_a_variant_may_write_its_gradient_in_place(case):
    check(3 * torch.randn(4, 6, 300, device=DEVICE), case, "torch", inplace=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_matches_the_reference_of_its_rounded_logits(dtype, backend):
    # At a scale of 1 / tokens, the small terms of a float16 gradient would vanish: the scale that a trainer sets.
    check((3 * torch.randn(4, 6, 300, device=DEVICE)).to(dtype), "reference", backend, loss_scale=1024.0)


@pytest.mark.parametrize(
    "num_columns", mostly_interpreted(1, 2049, 4097, 16385, 50257, fast=(1, 2049), slow=(4097, 16385))
)
def test_any_vocabulary_size_matches_the_reference(num_columns, backend):
    logits = 3 * torch.randn(1, 3, num_columns, device=DEVICE)
    targets = random_targets(logits)
    leaf, doubled = logits.clone().requires_grad_(), logits.double().requires_grad_()
    advantages = torch.tensor([1.5], device=DEVICE)
    ours = grpo_loss(leaf, targets, advantages, entropy_coef=0.1, backend=backend)
    theirs = reference.grpo_loss(doubled, targets, advantages.double(), entropy_coef=0.1)
    assert_losses_match(ours, theirs)
    ours.loss.backward()
    theirs.loss.backward()
    assert_gradient_matches(leaf.grad, doubled.grad)


@pytest.mark.parametrize("softcap", [None, 8.0])
@pytest.mark.parametrize("dtype", mostly_interpreted(torch.float32, torch.bfloat16, fast=(torch.float32,)))
def test_masked_vocabularies_match_the_reference(dtype, softcap, backend):
    logits = (3 * torch.randn(4, 6, 300, device=DEVICE)).to(dtype)
    logits[torch.rand(logits.shape, device=DEVICE) < 0.3] = -torch.inf
    logits[0, 0, 3:] = -torch.inf
    check(logits, "entropy and self-certainty", backend, temperature=0.7, softcap=softcap)


@pytest.mark.parametrize("backend", ["triton"])
@pytest.mark.parametrize("case", mostly_interpreted(*LOSSES, fast=("entropy and self-certainty",)))
def test_the_fused_loss_and_the_pair_have_the_same_bits(case, backend):
    logits = 3 * torch.randn(2, 3, 300, device=DEVICE)
    logits[0, 1, 7] = -torch.inf
    arguments, options = loss_inputs(LOSSES[case], logits)
    results = []
    for path in ("fused", "pair"):
        leaf = logits.clone().requires_grad_()
        with launches.override("grpo", path=path):
            result = grpo_loss(leaf, *arguments, backend=backend, **options)
        result.loss.backward()
        results.append([*(value for value in result if value is not None), leaf.grad])
    for fused, pair in zip(*results, strict=True):
        assert torch.equal(fused.nan_to_num(12345.0), pair.nan_to_num(12345.0))


def test_temperature_softcap_padding_and_strides_hold_here_too(backend):
    wide = 5 * torch.randn(6, 4, 320, device=DEVICE)
    temperature = torch.rand(4, 6, device=DEVICE, dtype=torch.float64) + 0.5
    _, gradient = check(
        wide.transpose(0, 1)[..., :310], "entropy and self-certainty", backend, temperature=temperature, softcap=8.0,
        vocab_size=300,
    )  # fmt: skip
    assert not gradient[..., 300:].any()


@pytest.mark.slow_interpreted
def test_the_statistics_have_the_bits_of_token_stats_whatever_the_batch(backend):
    logits = 3 * torch.randn(8, 5, 3000, device=DEVICE)
    targets = random_targets(logits)
    expected = token_stats(logits, targets, backend=backend)
    for batch in (slice(0, 8), slice(3, 4)):
        result = grpo_loss(
            logits[batch].requires_grad_(), targets[batch], torch.randn(8, device=DEVICE)[batch], backend=backend
        )
        for value, target in zip(result[1:4], expected[:3], strict=True):
            assert torch.equal(value, target[batch])


@pytest.mark.slow_interpreted
def test_the_gradient_is_deterministic(backend):
    logits = (3 * torch.randn(4, 6, 3000, device=DEVICE)).requires_grad_()
    targets, advantages = random_targets(logits), torch.randn(4, device=DEVICE)
    first, second = (
        torch.autograd.grad(grpo_loss(logits, targets, advantages, backend=backend).loss, logits)[0] for _ in range(2)
    )
    assert torch.equal(first, second)


@pytest.mark.parametrize("place", [1, 2, 3, 7, 16, 32, 64, 1024, 4096, 8191])
def test_one_competitor_of_a_near_certain_token_counts_wherever_it_stands(place, backend):
    # One lane, one vector and one chunk have the two together at some of these places.
    logits = torch.full((1, 1, 8192), -100.0, device=DEVICE)
    logits[..., 0], logits[..., place] = math.log(1e9), 0.0
    targets, advantages = torch.zeros(1, 1, dtype=torch.long, device=DEVICE), torch.ones(1, device=DEVICE)
    plain, fused = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    token_stats(plain, targets, backend=backend).logprob.sum().backward()
    (-grpo_loss(fused, targets, advantages, backend=backend).loss).backward()
    for gradient in (plain.grad, fused.grad):
        # The rounding of a logit of 20.7 is 1e-6 of its exponential.
        torch.testing.assert_close(gradient[0, 0, [0, place]].cpu(), torch.tensor([1e-9, -1e-9]), rtol=2e-6, atol=0)


@pytest.mark.parametrize("remainder", mostly_interpreted(1e-3, 1e-6, 1e-9, 1e-13, fast=(1e-9,), slow=(1e-3, 1e-13)))
def test_near_certain_tokens_keep_sign_and_magnitude(remainder, backend):
    logits = torch.randn(1, 1, 5000, device=DEVICE)
    others = logits.clone()
    others[..., 77] = -torch.inf
    logits[..., 77] = others.logsumexp(-1) - math.log(remainder)
    targets, advantages = torch.tensor([[77]], device=DEVICE), torch.ones(1, device=DEVICE)
    doubled = logits.double().requires_grad_()
    reference.grpo_loss(doubled, targets, advantages.double()).loss.backward()
    plain, fused = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    (-token_stats(plain, targets, backend=backend).logprob).sum().backward()
    grpo_loss(fused, targets, advantages, backend=backend).loss.backward()
    for gradient in (plain.grad, fused.grad):
        # In float32 an element may lose its own share of 1 - p, here one column's or one lane's among 5000.
        torch.testing.assert_close(gradient[0, 0, 77].double(), doubled.grad[0, 0, 77], rtol=1e-2, atol=0)
        # The others' probabilities carry the rounding of a logit of 30.
        torch.testing.assert_close(gradient.double(), doubled.grad, rtol=1e-2, atol=0)


def test_rows_with_infinities_and_nan_stay_to_themselves(backend):
    logits = 3 * torch.randn(1, 5, 700, device=DEVICE)
    logits[0, 1, 5] = -torch.inf
    logits[0, 2, 6] = torch.nan
    logits[0, 3] = -torch.inf
    targets = torch.tensor([[9, 9, 9, 9, -100]], device=DEVICE)
    leaf, doubled = logits.clone().requires_grad_(), logits.double().requires_grad_()
    advantages = torch.tensor([0.7], device=DEVICE)
    ours = grpo_loss(leaf, targets, advantages, entropy_coef=0.1, backend=backend)
    theirs = reference.grpo_loss(doubled, targets, advantages.double(), entropy_coef=0.1)
    for value, target in zip(ours[1:4], theirs[1:4], strict=True):
        torch.testing.assert_close(value.double(), target, rtol=1e-5, atol=1e-5, equal_nan=True)
    assert ours.loss.isnan()
    ours.loss.backward()
    assert leaf.grad[0, [0, 1, 4]].isfinite().all()
    assert leaf.grad[0, 2].isnan().any()
    assert leaf.grad[0, 1, 5] == 0
    assert not leaf.grad[0, 3:].any()  # columns outside the support, and a masked row


def test_an_upstream_gradient_scales_all(backend):
    logits = torch.randn(2, 3, 50, device=DEVICE, requires_grad=True)
    targets, advantages = torch.randint(50, (2, 3), device=DEVICE), torch.randn(2, device=DEVICE)
    (plain,) = torch.autograd.grad(grpo_loss(logits, targets, advantages, backend=backend).loss, logits)
    (tripled,) = torch.autograd.grad(3 * grpo_loss(logits, targets, advantages, backend=backend).loss, logits)
    torch.testing.assert_close(tripled, 3 * plain)


def test_a_loss_that_nobody_differentiates_leaves_the_logits_alone(backend):
    logits = torch.randn(2, 3, 50, device=DEVICE)
    before = logits.clone()
    arguments = (torch.randint(50, (2, 3), device=DEVICE), torch.randn(2, device=DEVICE))
    assert not grpo_loss(logits, *arguments, inplace_backward=True, backend=backend).loss.requires_grad
    with torch.no_grad():
        grpo_loss(logits.requires_grad_(), *arguments, inplace_backward=True, backend=backend)
    assert torch.equal(logits, before)


@pytest.mark.slow_interpreted
@pytest.mark.parametrize("inplace", [False, True])
def test_every_backward_of_a_kept_graph_gives_the_right_gradient(inplace, backend):
    logits = torch.randn(2, 3, 50, device=DEVICE, requires_grad=True)
    arguments = (torch.randint(50, (2, 3), device=DEVICE), torch.randn(2, device=DEVICE))
    (expected,) = torch.autograd.grad(grpo_loss(logits, *arguments, backend=backend).loss, logits)
    loss = grpo_loss(logits * 1, *arguments, inplace_backward=inplace, backend=backend).loss
    for factor in (0.5, 1, -3):
        (gradient,) = torch.autograd.grad(factor * loss, logits, retain_graph=True)
        assert torch.equal(gradient, factor * expected)
        gradient.zero_()  # it is the caller's
    loss.backward()
    assert torch.equal(logits.grad, expected)


@pytest.mark.slow_interpreted
def test_a_kept_graph_of_compiled_code_gives_the_right_gradients(backend):
    logits = torch.randn(2, 3, 50, device=DEVICE, requires_grad=True)
    arguments = (torch.randint(50, (2, 3), device=DEVICE), torch.randn(2, device=DEVICE))
    (expected,) = torch.autograd.grad(grpo_loss(2 * logits, *arguments, backend=backend).loss, logits)
    torch.compiler.reset()
    compiled = torch.compile(
        lambda x: grpo_loss(2 * x, *arguments, backend=backend).loss, fullgraph=True, backend="aot_eager"
    )
    loss = compiled(logits)
    for factor in (0.5, 1, -3):
        (gradient,) = torch.autograd.grad(factor * loss, logits, retain_graph=True)
        torch.testing.assert_close(gradient, factor * expected)


class NewStorages(TorchDispatchMode):
    """Counts the tensors of one size that operations put into memory of their own."""

    def __init__(self, numel):
        super().__init__()
        self.numel, self.count = numel, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = {x.untyped_storage().data_ptr() for x in args if isinstance(x, torch.Tensor)}
        if isinstance(result, torch.Tensor) and result.numel() == self.numel:
            self.count += result.untyped_storage().data_ptr() not in given
        return result


def test_only_a_backward_that_keeps_the_graph_copies_the_gradient(backend):
    logits = torch.randn(2, 3, 50, device=DEVICE, requires_grad=True)
    loss = grpo_loss(
        logits, torch.randint(50, (2, 3), device=DEVICE), torch.ones(2, device=DEVICE), backend=backend
    ).loss
    for keep in (True, False):
        with NewStorages(logits.numel()) as new:
            torch.autograd.grad(loss, logits, 0.5 * torch.ones_like(loss), retain_graph=keep)
        assert new.count == keep


@pytest.mark.slow_interpreted
def test_a_second_derivative_is_refused(backend):
    logits = torch.randn(2, 3, 50, device=DEVICE, requires_grad=True)
    arguments = (torch.randint(50, (2, 3), device=DEVICE), torch.randn(2, device=DEVICE))
    for inplace in (False, True):
        loss = grpo_loss(logits * 1, *arguments, inplace_backward=inplace, backend=backend).loss
        with pytest.raises(RuntimeError, match="grpo_loss has no second derivative"):
            torch.autograd.grad(loss, logits, create_graph=True)


def test_inplace_refuses_to_corrupt_what_another_op_saved(backend):
    logits = torch.randn(2, 3, 50, device=DEVICE, requires_grad=True)
    arguments = (torch.randint(50, (2, 3), device=DEVICE), torch.randn(2, device=DEVICE))
    computed = logits * 1
    squares = computed.square().sum()
    grpo_loss(computed, *arguments, inplace_backward=True, backend=backend)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        squares.backward()
    with pytest.raises(ValueError, match="got a leaf that requires grad"):
        grpo_loss(logits, *arguments, inplace_backward=True, backend=backend)


@pytest.mark.slow_interpreted
@pytest.mark.parametrize("inplace", [False, True])
def test_torch_compile_traces_the_whole_graph(inplace, backend):
    def loss(logits, targets, advantages):
        result = grpo_loss(2 * logits, targets, advantages, inplace_backward=inplace, backend=backend)
        return result.loss + 0 * result.entropy.sum()

    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    logits = torch.randn(2, 3, 50, device=DEVICE, requires_grad=True)
    arguments = (torch.randint(50, (2, 3), device=DEVICE), torch.randn(2, device=DEVICE))
    (expected,) = torch.autograd.grad(loss(logits, *arguments), logits)
    (actual,) = torch.autograd.grad(compiled(logits, *arguments), logits)
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("term", ["clip", "vespo"])
def test_opcheck_passes(term, backend):
    logits, rows = torch.randn(2, 3, 20, device=DEVICE), -torch.rand(6, 6, device=DEVICE)
    loss_rows = [*rows[:4], None, rows[4]]
    arguments = (torch.randint(20, (2, 3), device=DEVICE), None, None, 0.7, 0.0, 20, "logprob", backend, "")
    options, length = LossOptions(0.2, 0.2, 2.0, 0.0, 0.0, 0.0), 3 if term == "vespo" else 0
    torch.library.opcheck(torch.ops.rlif.grpo_loss, (logits, *arguments, loss_rows, [*options], term, length, True))


LOGITS, TARGETS, ADVANTAGES = torch.zeros(2, 3, 8), torch.zeros(2, 3, dtype=torch.long), torch.zeros(2)

BAD = {
    "advantages of another shape": (
        {"advantages": torch.zeros(3)}, ValueError, r"advantages has shape \(3,\); expected \(2, 3\) or \(2,\)",
    ),
    "advantages of integers": ({"advantages": torch.zeros(2, dtype=torch.long)}, TypeError, "advantages has dtype"),
    "old_logprob of another shape": ({"old_logprob": ADVANTAGES}, ValueError, r"old_logprob has shape \(2,\)"),
    "a beta without a reference": ({"beta": 0.1}, ValueError, "beta is 0.1 and ref_logprob is None; expected"),
    "a negative beta": ({"beta": -0.1}, ValueError, "beta is -0.1; expected a finite number, 0 or more"),
    "an unknown loss": ({"loss_type": "ppo"}, ValueError, "loss_type is 'ppo'; expected one of"),
    "an unknown level": ({"importance_sampling_level": "word"}, ValueError, "importance_sampling_level is 'word'"),
    "a weight of another shape": (
        {"token_weight": torch.ones(2)}, ValueError, r"token_weight has shape \(2,\); expected \(2, 3\), as",
    ),
    "a bound of the ratio in a loss that clips none": (
        {"loss_type": "sapo", "delta": 2.0}, ValueError, "delta is 2.0; expected None with loss_type 'sapo'",
    ),
    "a level for a loss of whole sequences": (
        {"loss_type": "vespo", "importance_sampling_level": "sequence"}, ValueError,
        "importance_sampling_level is 'sequence'; expected 'token' with loss_type 'vespo'",
    ),
    "a temperature of 0": ({"sapo_temperature_pos": 0.0}, ValueError, "sapo_temperature_pos is 0.0; expected a"),
    "an exponent as text": ({"vespo_k_pos": "2"}, TypeError, "vespo_k_pos is '2'; expected a number"),
    "more than all tokens": (
        {"top_entropy_quantile": 1.5}, ValueError, "top_entropy_quantile is 1.5; expected a number from 0 to 1",
    ),
    "an empty range": ({"clip_cov_lb": 6.0}, ValueError, "clip_cov_lb is 6.0; expected less than clip_cov_ub, 5.0"),
    "both holds of the covariance": (
        {"clip_cov_ratio": 0.1, "kl_cov_ratio": 0.1}, ValueError, "kl_cov_ratio is 0.1; expected 0 with a clip_cov",
    ),
    "a covariance in a loss that clips no ratio": (
        {"loss_type": "cispo", "clip_cov_ratio": 0.1}, ValueError, "clip_cov_ratio is 0.1; expected 0, or a loss_type",
    ),
    "an unknown option": (
        {"sapo_temperature": 1.0}, TypeError, "got an unexpected keyword argument 'sapo_temperature'; expected one",
    ),
    "epsilon as text": ({"epsilon_low": "0.2"}, TypeError, "epsilon_low is '0.2'; expected a number"),
    "no tokens in the batch": ({"num_items_in_batch": 0}, ValueError, "num_items_in_batch is 0; expected a positive"),
    "a field that is no statistic of a token": (
        {"outputs": ("logprob", "top_probs")}, ValueError, r"outputs is \('logprob', 'top_probs'\); expected names",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_argument_is_named(case):
    options, error, message = BAD[case]
    options = {"advantages": ADVANTAGES} | options
    with pytest.raises(error, match=message):
        grpo_loss(LOGITS, TARGETS, **options)
