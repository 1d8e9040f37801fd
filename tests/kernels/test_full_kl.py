"""The penalty by the divergence itself: as the float64 reference has it, in the loss's own tiles, 0 at the start."""

import pytest
import torch
from torch import func

from comparison import DEVICE, mostly_interpreted
from losses import LOSSES, VARIANTS, assert_gradient_matches, assert_losses_match, exact, loss_inputs, near
from rlif_kernels import grpo_loss, linear_grpo_loss, linear_token_stats, reference
from rlif_kernels.head import products

NUM_COLUMNS, WIDTH, REF_WIDTH = 101, 16, 24

# One for each way through the tiles: on-policy, off-policy, rows that share a ratio, rows that are chosen; of each
# normalisation, with a term beside, and for the log alone (a beta of 0).
CASES = {
    "on-policy": LOSSES["on-policy"] | {"beta": 0.1},
    "two-sided clip": LOSSES["two-sided clip"] | {"beta": 0.1, "loss_type": "grpo"},
    "entropy and self-certainty": LOSSES["entropy and self-certainty"],
    "for the log alone": {},
    "part of a batch": LOSSES["dapo, part of a batch"] | {"beta": 0.1},
    "sequence, all terms": LOSSES["sequence, all terms"],
    "gmpo": VARIANTS["gmpo"],
    "cispo, on-policy": VARIANTS["cispo, on-policy"] | {"beta": 0.1},
    "high entropy": VARIANTS["high entropy"],
}


def tensors(columns=NUM_COLUMNS, width=WIDTH, dtype=torch.float32, shape=(3, 4)):
    """hidden, weight and bias of a head."""
    sizes = ((*shape, width), (columns, width), (columns,))
    hidden, weight, bias = (torch.randn(*size, device=DEVICE).to(dtype) for size in sizes)
    return hidden.requires_grad_(), (weight / 2).requires_grad_(), bias.requires_grad_()


def named(hidden, weight=None, bias=None):
    return {"kl": "full", "ref_hidden": hidden, "ref_weight": weight, "ref_bias": bias}


def doubled(*leaves):
    return [leaf.detach().double().requires_grad_() for leaf in leaves]


def arguments_of(case, policy):
    """(targets, advantages, old_logprob, None) and options of a case, with ratios near 1."""
    hidden, weight, bias = policy
    case = {name: value for name, value in case.items() if name != "ref"}
    logits = torch.nn.functional.linear(hidden, weight, bias).detach()
    arguments, options = loss_inputs(case, logits[..., :95])
    rows = {"softcap": 10.0, "temperature": 0.8, "vocab_size": 95}
    with torch.no_grad():
        logprob = linear_token_stats(hidden, weight, arguments[0], bias=bias, **rows).logprob
    return near(logprob, arguments), options | rows


def check(case, policy, start, **given):
    """Compare loss, statistics, divergence and the three gradients with the float64 reference."""
    arguments, options = arguments_of(case, policy)
    hidden, weight, bias = policy
    ours = linear_grpo_loss(hidden, weight, *arguments, bias=bias, **options, **named(*start), **given)
    leaves, constants = doubled(*policy), [x.detach().double() for x in start]
    theirs = reference.linear_grpo_loss(*leaves[:2], *exact(arguments), bias=leaves[2], **options, **named(*constants))
    assert_losses_match(ours, theirs)
    (3 * ours.loss).backward()
    (3 * theirs.loss).backward()
    for tensor, leaf in zip(policy, leaves, strict=True):
        assert_gradient_matches(tensor.grad, leaf.grad)


# Of 1 byte: a row at a time, and sequences that fit no tile.
@pytest.mark.parametrize(
    ("case", "tile_bytes"),
    mostly_interpreted(
        *((case, 6000) for case in CASES), ("sequence, all terms", 1), ("on-policy", 1), ("on-policy", 1 << 29),
        fast=(("entropy and self-certainty", 6000),),
        slow=(("sequence, all terms", 6000),),
    ),
)  # fmt: skip
def test_every_loss_matches_the_reference_with_a_reference_of_another_width(case, tile_bytes, backend):
    check(CASES[case], tensors(), tensors(120, REF_WIDTH), tile_bytes=tile_bytes, backend=backend)


@pytest.mark.parametrize("case", mostly_interpreted("on-policy", "high entropy", fast=("on-policy",)))
def test_a_reference_with_the_policys_own_head_takes_one_product_for_both(case, backend, monkeypatch):
    policy, shapes = tensors(), []
    multiply = products.multiply

    def counted(*arguments, **options):
        shapes.append(tuple(arguments[0].shape))
        return multiply(*arguments, **options)

    ref_hidden, _, _ = tensors()
    arguments, options = arguments_of(CASES[case], policy)
    leaves = doubled(*policy)
    theirs = reference.linear_grpo_loss(
        *leaves[:2], *exact(arguments), bias=leaves[2], **options, **named(ref_hidden.detach().double())
    )
    monkeypatch.setattr("rlif_kernels.head.head.multiply", counted)
    hidden, weight, bias = policy
    ours = linear_grpo_loss(hidden, weight, *arguments, bias=bias, backend=backend, **options, **named(ref_hidden))
    if case == "on-policy":  # else statistics come first
        assert shapes == [(2 * int(options["mask"].sum()), WIDTH)]
    assert_losses_match(ours, theirs)
    ours.loss.backward()
    theirs.loss.backward()
    assert ref_hidden.grad is None
    for tensor, leaf in zip(policy, leaves, strict=True):
        assert_gradient_matches(tensor.grad, leaf.grad)


def test_it_takes_one_product_more_than_the_loss_without_it(monkeypatch):
    policy, start, count = tensors(), tensors(), []
    multiply = products.multiply
    for place in ("rlif_kernels.head.head.multiply", "rlif_kernels.head.gradients.multiply"):
        monkeypatch.setattr(place, lambda *a, **o: (count.append(1), multiply(*a, **o))[1])
    arguments, options = arguments_of(CASES["on-policy"], policy)
    count.clear()
    hidden, weight, bias = policy
    linear_grpo_loss(hidden, weight, *arguments, bias=bias, **options, **named(*start)).loss.backward()
    assert len(count) == 4


@pytest.mark.parametrize("copied", mostly_interpreted(False, True, fast=(False,)))
def test_a_policy_that_is_its_own_reference_has_no_penalty_and_no_gradient_of_it(copied, backend):
    check_own_reference((3, 4), copied, backend)


# A product may take rows at its edges by other code, whose sums must be the same.
@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 1), (5, 33), (7, 61)])
def test_so_it_is_with_tiles_of_any_number_of_rows(shape):
    for copied in (False, True):
        check_own_reference(shape, copied, None)


def check_own_reference(shape, copied, backend):
    hidden, weight, bias = policy = tensors(shape=shape)
    targets, advantages = torch.randint(95, shape, device=DEVICE), torch.randn(shape[0], device=DEVICE)
    start = [x.detach().clone() for x in policy] if copied else (hidden,)
    results = [
        linear_grpo_loss(
            hidden, weight, targets, advantages, bias=bias, tile_bytes=6000, backend=backend, temperature=0.8, **penalty
        )
        for penalty in ({"beta": 10.0, **named(*start)}, {"beta": 0.0})
    ]
    gradients = [torch.autograd.grad(result.loss, policy) for result in results]
    assert (results[0].kl == 0).all()
    # The tiles of both have other sizes, and with them sums another order: no penalty is less than their rounding.
    torch.testing.assert_close(results[0].loss, results[1].loss, rtol=1e-6, atol=1e-6)
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
    zero = linear_grpo_loss(
        hidden, weight, targets, 0 * advantages, bias=bias, beta=10.0, tile_bytes=6000, backend=backend, **named(*start)
    )
    assert zero.loss == 0
    assert all((gradient == 0).all() for gradient in torch.autograd.grad(zero.loss, policy))


@pytest.mark.parametrize("ref_dtype", mostly_interpreted(torch.bfloat16, torch.float32, fast=(torch.float32,)))
def test_a_half_precision_policy_learns_to_its_rounding_from_a_reference_of_any_dtype(ref_dtype, backend):
    policy, start = tensors(dtype=torch.bfloat16), tensors(dtype=ref_dtype)
    hidden, weight, bias = policy
    targets, advantages = torch.randint(95, (3, 4), device=DEVICE), torch.randn(3, device=DEVICE)
    options = {"beta": 0.5, "logits_dtype": torch.float32, "tile_bytes": 6000, "backend": backend}
    if ref_dtype != torch.bfloat16:  # the reference's logits have another size than the policy's gradient
        options["logits_dtype"] = None
    ours = linear_grpo_loss(hidden, weight, targets, advantages, bias=bias, **options, **named(*start))
    leaves, constants = doubled(*policy), [x.detach().double() for x in start]
    theirs = reference.linear_grpo_loss(
        *leaves[:2], targets, advantages.double(), bias=leaves[2], beta=0.5, **named(*constants)
    )
    ours.loss.backward()
    theirs.loss.backward()
    # A rounded logit is 2^-9 of itself off, here by up to 0.03; float32 ones are exact.
    bound = 0.1 if options["logits_dtype"] is None else 1e-4
    torch.testing.assert_close(ours.kl.double(), theirs.kl, rtol=bound, atol=bound)
    for tensor, leaf in zip(policy, leaves, strict=True):
        error = (tensor.grad.double() - leaf.grad).norm() / leaf.grad.norm()
        # The gradients of both terms and their sum are rounded, and the result: a few halves of a unit.
        assert error < (0.05 if options["logits_dtype"] is None else 3 * torch.finfo(torch.bfloat16).eps)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("case", ["on-policy", "two-sided clip", "for the log alone", "high entropy"])
def test_the_loss_of_logits_matches_the_reference_too(case, inplace):
    logits, ref_logits = torch.randn(2, 3, 4, NUM_COLUMNS, device=DEVICE) * 3
    leaf, other = logits.clone().requires_grad_(), logits.double().requires_grad_()
    options = {name: value for name, value in CASES[case].items() if name != "ref"}
    arguments, options = loss_inputs(options, logits[..., :95])
    options |= {"softcap": 10.0, "temperature": 0.8, "vocab_size": 95, "kl": "full"}
    logprob = reference.token_stats(logits, arguments[0], temperature=0.8, vocab_size=95, softcap=10.0).logprob
    arguments = near(logprob, arguments)
    ours = grpo_loss(leaf * 1.0, *arguments, ref_logits=ref_logits, inplace_backward=inplace, **options)
    theirs = reference.grpo_loss(other, *exact(arguments), ref_logits=ref_logits.double(), **options)
    assert_losses_match(ours, theirs)
    ours.loss.backward()
    theirs.loss.backward()
    assert_gradient_matches(leaf.grad, other.grad)


def test_a_token_that_the_reference_cannot_say_has_an_infinite_divergence_in_its_row_alone(backend):
    hidden, weight, bias = tensors()
    start = [x.detach().clone() for x in (hidden, weight, bias)]
    ref_logits = torch.nn.functional.linear(*start)
    ref_logits[0, 0, 7] = -torch.inf
    logits = torch.nn.functional.linear(hidden, weight, bias).detach().requires_grad_()
    targets = torch.zeros(3, 4, dtype=torch.long, device=DEVICE)
    result = grpo_loss(
        logits, targets, torch.ones(3, device=DEVICE), beta=0.1, kl="full", ref_logits=ref_logits, backend=backend
    )
    assert result.kl[0, 0] == torch.inf
    assert result.kl.flatten()[1:].isfinite().all()
    result.loss.backward()
    assert logits.grad[0, 0].isnan().any()
    assert logits.grad.flatten(0, 1)[1:].isfinite().all()


def test_transforms_give_the_same_gradients_and_the_tangent(backend):
    policy, start = tensors(), [x.detach() for x in tensors()]
    arguments, options = arguments_of(CASES["on-policy"], policy)
    policy = [x.detach() for x in policy]
    tangents = tuple(torch.randn_like(x) for x in policy)

    def loss(hidden, weight, bias):
        given = (hidden, weight, *arguments)
        return linear_grpo_loss(*given, bias=bias, tile_bytes=6000, backend=backend, **options, **named(*start)).loss

    def expected(hidden, weight, bias):
        constants = [x.double() for x in start]
        return reference.linear_grpo_loss(
            hidden, weight, *exact(arguments), bias=bias, **options, **named(*constants)
        ).loss

    _, ours = func.jvp(loss, tuple(policy), tangents)
    _, theirs = func.jvp(expected, tuple(x.double() for x in policy), tuple(x.double() for x in tangents))
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-5)
    leaves = [x.clone().requires_grad_() for x in policy]
    loss(*leaves).backward()
    for gradient, leaf in zip(func.grad(loss, argnums=(0, 1, 2))(*policy), leaves, strict=True):
        torch.testing.assert_close(gradient, leaf.grad, rtol=1e-5, atol=1e-6)  # two ops there, whose sums are apart


def test_torch_compile_traces_the_whole_graph():
    policy, start = tensors(), [x.detach() for x in tensors()]
    arguments, options = arguments_of(CASES["two-sided clip"], policy)

    def loss(hidden, weight, bias):
        given = (2 * hidden, weight, *arguments)
        return linear_grpo_loss(*given, bias=bias, **options, **named(*start)).loss

    torch.compiler.reset()
    expected = torch.autograd.grad(loss(*policy), policy)
    actual = torch.autograd.grad(torch.compile(loss, fullgraph=True, backend="aot_eager")(*policy), policy)
    for ours, theirs in zip(actual, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_what_the_penalty_takes_and_what_it_does_not_is_named():
    hidden, weight, bias = policy = [x.detach() for x in tensors()]
    ref_hidden, ref_weight, _ = (x.detach() for x in tensors(90, REF_WIDTH))
    targets, advantages = torch.zeros(3, 4, dtype=torch.long, device=DEVICE), torch.ones(3, device=DEVICE)
    given = (hidden, weight, targets, advantages)
    logits = torch.nn.functional.linear(*policy)
    for options, message in (
        ({"kl": "k2"}, r"kl is 'k2'; expected one of \('k3', 'k3_corrected', 'full'\)"),
        ({"kl": "full"}, "ref_hidden is None; expected the reference's with kl 'full'"),
        ({"ref_hidden": hidden}, "ref_hidden is a tensor; expected None with kl 'k3', which takes ref_logprob"),
        (
            {"kl": "k3_corrected", "ref_hidden": hidden},
            "ref_hidden is a tensor; expected None with kl 'k3_corrected', which takes ref_logprob",
        ),
        ({"kl": "k3_corrected", "beta": 0.1}, "beta is 0.1 and ref_logprob is None; expected the reference's"),
        (
            {"ref_logprob": advantages[:, None].expand(3, 4), **named(hidden)},
            "ref_logprob is a tensor; expected None with kl 'full', which takes ref_hidden",
        ),
        (named(hidden, bias=bias), "ref_bias is a tensor and ref_weight None; expected None, or both"),
        (named(hidden[:2]), r"ref_hidden has shape \(2, 4, 16\); expected \(3, 4\) and one more, the rows of hidden"),
        (named(ref_hidden, weight), r"ref_weight has shape \(101, 16\); expected \(V, 24\)"),
        (
            named(ref_hidden, ref_weight),
            "ref_weight is of 90 columns; expected 101 or more, those of the policy",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            linear_grpo_loss(*given, **options)
    with pytest.raises(ValueError, match="ref_logits is None; expected the reference's with kl 'full'"):
        grpo_loss(logits, targets, advantages, kl="full")
    with pytest.raises(ValueError, match="ref_logits is of 90 columns; expected 101 or more, those of the policy"):
        grpo_loss(logits, targets, advantages, kl="full", ref_logits=logits[..., :90])
