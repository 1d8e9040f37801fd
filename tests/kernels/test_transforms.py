"""Forward-mode AD and torch.func: right derivatives of the first order, one clear error for everything else."""

import math
from itertools import product

import pytest
import torch
from torch import func
from torch.autograd import forward_ad

from comparison import DEVICE, SUM_FIELDS, VALUE_TOLERANCE, mostly_interpreted, present
from losses import FAST_LOSSES, LOSSES, RELATIVE_TOLERANCE, exact, loss_inputs, near
from rlif_kernels import grpo_loss, linear_grpo_loss, linear_token_stats, reference, sample_tokens, token_stats
from rlif_kernels.functional import DIFFERENTIABLE


def doubled(*tensors):
    return tuple(tensor.double() for tensor in tensors)


def assert_tangents_match(actual, expected):
    """The contract's bound of a value: a tangent adds up as the value does, rounded to float32 once."""
    for name, ours, theirs in zip(SUM_FIELDS, actual, expected, strict=True):
        assert ours.dtype == torch.float32, name
        assert torch.equal(ours.isnan(), theirs.isnan()), name
        bound = VALUE_TOLERANCE * theirs.abs().clamp(min=1)
        wrong = ~((ours.double() - theirs).abs() <= bound) & ~theirs.isnan()
        assert not wrong.any(), f"{name}: {ours[wrong][:4]} != {theirs[wrong][:4]}"


def check(logits, tangent, targets, backend, **options):
    """Compare the tangents of all fields with the float64 reference's, through torch.func and through dual numbers."""
    exact_options = {
        name: value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for name, value in options.items()
    }
    _, expected = func.jvp(
        lambda x: tuple(present(reference.token_stats(x, targets, outputs=SUM_FIELDS, **exact_options))),
        doubled(logits),
        doubled(tangent),
    )

    def stats(x):
        return tuple(present(token_stats(x, targets, outputs=SUM_FIELDS, backend=backend, **options)))

    values, actual = func.jvp(stats, (logits,), (tangent,))
    assert_tangents_match(actual, expected)
    for value, plain in zip(values, stats(logits), strict=True):
        assert torch.equal(value.nan_to_num(), plain.nan_to_num())
    with forward_ad.dual_level():
        duals = [forward_ad.unpack_dual(value).tangent for value in stats(forward_ad.make_dual(logits, tangent))]
    for name, dual, other in zip(SUM_FIELDS, duals, actual, strict=True):
        assert (dual is None) == (name not in DIFFERENTIABLE), name
        if dual is not None:
            assert torch.equal(dual.nan_to_num(), other.nan_to_num()), name
    return actual


@pytest.mark.slow_interpreted
@pytest.mark.parametrize("scale", [0.01, 3.0, 50.0])
def test_tangents_match_the_reference(scale, backend):
    logits = scale * torch.randn(3, 4, 700, device=DEVICE)
    targets = torch.distributions.Categorical(logits=logits).sample()
    targets[0, 1] = -100
    check(logits, torch.randn_like(logits), targets, backend)
    check(logits, torch.randn_like(logits) + 1e4, logits.argmax(-1), backend)


@pytest.mark.slow_interpreted
def test_tangents_hold_every_option_of_the_rows(backend):
    logits = 5 * torch.randn(6, 4, 320, device=DEVICE).transpose(0, 1)[..., :310]
    tangent = torch.randn(4, 6, 310, device=DEVICE)
    tangent[..., 300:] = torch.nan  # never read
    options = {"vocab_size": 300, "softcap": 8.0, "mask": torch.rand(4, 6, device=DEVICE) > 0.3}
    targets = torch.randint(300, (4, 6), device=DEVICE)
    for temperature in (0.7, torch.rand(4, 6, device=DEVICE, dtype=torch.float64) + 0.5):
        check(logits, tangent, targets, backend, temperature=temperature, **options)


@pytest.mark.slow_interpreted
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_tangents_of_half_precision_are_those_of_the_rounded_logits(dtype, backend):
    logits, tangent = (3 * torch.randn(2, 5, 300, device=DEVICE).to(dtype) for _ in range(2))
    check(logits, tangent, torch.randint(300, (2, 5), device=DEVICE), backend)


@pytest.mark.slow_interpreted
def test_tangents_at_the_edges(backend):
    logits, tangent = 3 * torch.randn(7, 90, device=DEVICE), torch.randn(7, 90, device=DEVICE)
    targets = torch.randint(90, (7,), device=DEVICE)
    targets[:2] = 5
    logits[0, 4] = -torch.inf
    tangent[0, 4] = torch.nan  # outside the support
    logits[1, 5] = -torch.inf  # the target's probability is 0
    logits[2, 3] = torch.nan
    logits[3, 3] = torch.inf
    logits[4] += 1e4
    logits[5, 40:] = torch.finfo(torch.float32).min
    rows = torch.arange(7, device=DEVICE) < 6
    logits[6] = -torch.inf  # no distribution, and so no tangent
    actual = check(logits, tangent, targets.where(rows, -100), backend)
    assert actual[0][2:4].isnan().all()
    assert actual[0][[0, 1, 4, 5]].isfinite().all()
    for _, lost in [func.jvp(lambda x: token_stats(x, targets, backend=backend)[:3], (logits,), (tangent,))]:
        assert all(value[6].isnan() for value in lost)


def test_a_nearly_certain_token_keeps_the_digits_of_its_tangent(backend):
    logits, tangent = torch.randn(1, 5000, device=DEVICE), torch.randn(1, 5000, device=DEVICE)
    others = logits.clone()
    others[0, 77] = -torch.inf
    logits[0, 77] = others.logsumexp(-1) - math.log(1e-9)
    targets = torch.tensor([77], device=DEVICE)
    _, ours = func.jvp(lambda x: token_stats(x, targets, backend=backend).logprob, (logits,), (tangent,))
    _, theirs = func.jvp(lambda x: reference.token_stats(x, targets).logprob, doubled(logits), doubled(tangent))
    # A millionth of 1 - p, that a sum of so many signs may fall far below.
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-6, atol=1e-15)


def head():
    hidden, weight, bias = (torch.randn(*shape, device=DEVICE) for shape in ((3, 4, 16), (101, 16), (101,)))
    return hidden, weight / 2, bias


MOVING = ("all", "hidden", "weight", "bias")


@pytest.mark.parametrize(
    ("moving", "tile_bytes"),
    mostly_interpreted(
        *product(MOVING, (1 << 29, 3000, 1)),
        fast=tuple(product(MOVING, (3000,))),
        slow=tuple(product(("all",), (1 << 29, 1))),
    ),
)
def test_tangents_of_a_head_match_the_reference(moving, tile_bytes, backend):
    tensors = dict(zip(("hidden", "weight", "bias"), head(), strict=True))
    names = tuple(tensors) if moving == "all" else (moving,)
    points, tangents = tuple(tensors[name] for name in names), tuple(torch.randn_like(tensors[name]) for name in names)
    targets = torch.randint(95, (3, 4), device=DEVICE)
    targets[1, 2] = -100
    options = {"vocab_size": 95, "temperature": 0.8, "softcap": 10.0, "outputs": DIFFERENTIABLE}

    def ours(*moved):
        given = tensors | dict(zip(names, moved, strict=True))
        stats = linear_token_stats(**given, targets=targets, tile_bytes=tile_bytes, backend=backend, **options)
        return tuple(getattr(stats, name) for name in DIFFERENTIABLE)

    def theirs(*moved):
        given = {name: tensor.double() for name, tensor in tensors.items()} | dict(zip(names, moved, strict=True))
        stats = reference.linear_token_stats(**given, targets=targets, **options)
        return tuple(getattr(stats, name) for name in DIFFERENTIABLE)

    _, expected = func.jvp(theirs, doubled(*points), doubled(*tangents))
    _, actual = func.jvp(ours, points, tangents)
    for name, value, target in zip(DIFFERENTIABLE, actual, expected, strict=True):
        # The products in float32 bring errors of their own, those of a sum of 16 terms.
        torch.testing.assert_close(value.double(), target, rtol=1e-5, atol=2e-5, msg=name)


# A tangent is the gradient that the losses' own tests try for every case, times the direction.
@pytest.mark.slow_interpreted
@pytest.mark.parametrize(
    "case",
    [
        case if case in FAST_LOSSES else pytest.param(case, marks=[pytest.mark.slow, pytest.mark.not_interpreted])
        for case in LOSSES
    ],
)
def test_tangents_of_the_losses_match_the_reference(case, backend):
    hidden, weight, bias = head()
    logits = torch.nn.functional.linear(hidden, weight, bias)
    arguments, options = loss_inputs(LOSSES[case], logits)
    arguments = near(token_stats(logits, arguments[0]).logprob, arguments)
    points = (hidden, weight, bias)
    tangents = tuple(torch.randn_like(point) for point in points)

    def fused(h, w, b):
        return linear_grpo_loss(h, w, *arguments, bias=b, tile_bytes=3000, backend=backend, **options).loss

    def plain(h, w, b):
        return grpo_loss(torch.nn.functional.linear(h, w, b), *arguments, backend=backend, **options).loss

    _, expected = func.jvp(
        lambda h, w, b: reference.linear_grpo_loss(h, w, *exact(arguments), bias=b, **options).loss,
        doubled(*points), doubled(*tangents),
    )  # fmt: skip
    for loss in (fused, plain):
        _, actual = func.jvp(loss, points, tangents)
        # Of the order of 1, from products in float32.
        assert abs(actual - expected) <= 10 * RELATIVE_TOLERANCE * max(1, abs(expected))


def ops(backend):
    """By name, a loss of one tensor, and the tensor."""
    hidden, weight, bias = head()
    targets = torch.randint(101, (3, 4), device=DEVICE)
    advantages, old = torch.tensor([1.0, -0.5, 0.8], device=DEVICE), -5 - torch.rand(3, 4, device=DEVICE)

    def weighted(stats):
        return sum((k + 1) * value.sum() for k, value in enumerate(each for each in stats if each is not None))

    return {
        "token_stats": (
            lambda x: weighted(token_stats(x, targets, outputs=DIFFERENTIABLE, backend=backend)), hidden @ weight.T
        ),
        "linear_token_stats": (
            lambda w: weighted(
                linear_token_stats(hidden, w, targets, bias=bias, outputs=DIFFERENTIABLE, backend=backend)
            ), weight,
        ),
        "grpo_loss": (
            lambda x: grpo_loss(x, targets, advantages, old, entropy_coef=0.1, backend=backend).loss, hidden @ weight.T
        ),
        "linear_grpo_loss": (
            lambda h: linear_grpo_loss(
                h, weight, targets, advantages, old, bias=bias, entropy_coef=0.1, backend=backend
            ).loss, hidden,
        ),
    }  # fmt: skip


OPS = ["token_stats", "linear_token_stats", "grpo_loss", "linear_grpo_loss"]


@pytest.mark.slow_interpreted
@pytest.mark.parametrize("op", OPS)
def test_grad_and_vjp_of_torch_func_are_those_of_autograd(op, backend):
    loss, point = ops(backend)[op]
    leaf = point.clone().requires_grad_()
    loss(leaf).backward()
    assert torch.equal(func.grad(loss)(point), leaf.grad)
    value, pull = func.vjp(loss, point)
    torch.testing.assert_close(value, loss(point))
    assert torch.equal(pull(torch.tensor(1.0, device=DEVICE))[0], leaf.grad)


def forward_over_backward_of_dual_numbers(loss, point, tangent):
    with forward_ad.dual_level():
        loss(forward_ad.make_dual(point.clone().requires_grad_(), tangent)).backward()


def backward_over_dual_numbers(loss, point, tangent):
    leaf = point.clone().requires_grad_()
    with forward_ad.dual_level():
        moved = forward_ad.unpack_dual(loss(forward_ad.make_dual(leaf, tangent))).tangent
    moved.backward()


def dual_upstream_gradient(loss, point, tangent):
    value = loss(point.clone().requires_grad_())
    with forward_ad.dual_level():
        one = torch.ones((), device=point.device)
        value.backward(forward_ad.make_dual(one, one))


SECOND = {
    "forward over reverse": lambda loss, x, v: func.jvp(func.grad(loss), (x,), (v,)),
    "reverse over reverse": lambda loss, x, v: func.grad(lambda y: (func.grad(loss)(y) * v).sum())(x),
    "reverse over forward": lambda loss, x, v: func.grad(lambda y: func.jvp(loss, (y,), (v,))[1])(x),
    "forward over forward": lambda loss, x, v: func.jvp(lambda y: func.jvp(loss, (y,), (v,))[1], (x,), (v,)),
    "a backward of dual numbers": forward_over_backward_of_dual_numbers,
    "a backward through a tangent": backward_over_dual_numbers,
    "an upstream gradient with a tangent": dual_upstream_gradient,
}


@pytest.mark.parametrize("way", SECOND)
@pytest.mark.parametrize("op", OPS)
def test_every_second_derivative_is_refused(op, way):
    loss, point = ops("torch")[op]
    tangent = torch.randn_like(point)
    with pytest.raises(RuntimeError, match=f"^{op} has no second derivative"):
        SECOND[way](loss, point, tangent)


@pytest.mark.parametrize("op", OPS)
def test_vmap_is_refused_in_one_sentence(op):
    loss, point = ops("torch")[op]
    batch, leaf = torch.stack([point, point]), point.clone().requires_grad_()
    calls = (
        lambda: func.vmap(loss)(batch),
        lambda: func.vmap(func.grad(loss))(batch),
        lambda: func.jacrev(loss)(point),
        lambda: func.jacfwd(loss)(point),
        lambda: torch.autograd.grad(loss(leaf), leaf, torch.ones(2), is_grads_batched=True),
    )
    for call in calls:
        with pytest.raises(
            RuntimeError, match=rf"^{op} has no rule for torch\.func\.vmap: it takes rows of any leading"
        ):
            call()


def test_sampled_tokens_have_no_derivative_in_any_mode(backend):
    logits, tangent = torch.randn(5, 40, device=DEVICE), torch.randn(5, 40, device=DEVICE)
    uniform = torch.rand(5, dtype=torch.float64, device=DEVICE)

    def sample(x):
        return sample_tokens(x, uniform, outputs=("entropy",), backend=backend)

    expected = sample(logits)
    with forward_ad.dual_level():
        drawn = sample(forward_ad.make_dual(logits, tangent))
        assert forward_ad.unpack_dual(drawn.stats.entropy).tangent is None
    assert torch.equal(drawn.token_ids, expected.token_ids)
    gradient, entropy = func.grad(lambda x: (x.sum() + sample(x).stats.entropy.sum(),) * 2, has_aux=True)(logits)
    assert torch.equal(gradient, torch.ones_like(logits))
    assert entropy == logits.sum() + expected.stats.entropy.sum()
    with pytest.raises(RuntimeError, match=r"^sample_tokens has no rule for torch\.func\.vmap"):
        func.vmap(lambda x, u: sample_tokens(x, u, backend=backend).token_ids)(logits, uniform)


def test_inplace_backward_is_refused_under_transforms():
    logits, targets = torch.randn(3, 4, 20), torch.randint(20, (3, 4))
    losses = (
        lambda x: token_stats(2 * x, targets, inplace_backward=True).logprob.sum(),
        lambda x: grpo_loss(2 * x, targets, torch.ones(3), inplace_backward=True).loss,
    )
    for loss in losses:
        with pytest.raises(ValueError, match=r"inplace_backward is True under torch\.func or forward-mode AD"):
            func.grad(loss)(logits)


@pytest.mark.parametrize("op", OPS)
def test_transforms_of_compiled_code_and_in_it_are_as_right_as_without(op):
    loss, point = ops("torch")[op]
    tangent = torch.randn_like(point)
    expected = func.jvp(loss, (point,), (tangent,))[1], func.grad(loss)(point)
    torch.compiler.reset()
    within = torch.compile(lambda x: (func.jvp(loss, (x,), (tangent,))[1], func.grad(loss)(x)), backend="aot_eager")
    compiled = torch.compile(loss, backend="aot_eager")
    around = func.jvp(compiled, (point,), (tangent,))[1], func.grad(compiled)(point)
    for actual in (within(point), around):
        for value, target in zip(actual, expected, strict=True):
            torch.testing.assert_close(value, target)
