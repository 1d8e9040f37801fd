"""The loss from hidden states and the head: values, three gradients, and three products where three suffice."""

import sys
from itertools import product

import pytest
import torch

import forked
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
from rlif_kernels import grpo_loss, linear_grpo_loss, linear_token_stats, reference
from rlif_kernels.head import products as products_of_heads

NUM_COLUMNS, WIDTH = 101, 16
TILE_BYTES = [1 << 29, 3000, 1]


def head(dtype=torch.float32, shape=(4, 6)):
    hidden = torch.randn(*shape, WIDTH, device=DEVICE).to(dtype).requires_grad_()
    weight = (torch.randn(NUM_COLUMNS, WIDTH, device=DEVICE) / 2).to(dtype).requires_grad_()
    bias = torch.randn(NUM_COLUMNS, device=DEVICE).to(dtype).requires_grad_()
    return hidden, weight, bias


def logits_of(hidden, weight, bias=None):
    return torch.nn.functional.linear(hidden, weight, bias).detach()


def doubled(*tensors):
    return [tensor.detach().double().requires_grad_() for tensor in tensors]


# How rows are divided over tiles does not depend on the loss, but on whether a sequence must stay whole.
@pytest.mark.parametrize(
    ("case", "tile_bytes"),
    mostly_interpreted(
        *product(LOSSES, TILE_BYTES),
        fast=tuple(product(FAST_LOSSES, (3000,))),
        slow=(*product(LOSSES, (3000,)), *product(("on-policy", "sequence, all terms"), TILE_BYTES)),
    ),
)
def test_every_loss_matches_the_reference(case, tile_bytes, backend):
    check(LOSSES[case], tile_bytes, backend)


# Of whole sequences and of all tokens, in one tile and in several.
@pytest.mark.parametrize("tile_bytes", [1 << 29, 3000])
@pytest.mark.parametrize("case", VARIANTS)
def test_every_variant_matches_the_reference(case, tile_bytes):
    check(VARIANTS[case], tile_bytes, None)


def check(case, tile_bytes, backend):
    """Compare loss, statistics and gradients with the float64 reference."""
    # More rows than a tile holds, and few where tiles hold least: there are as many as rows and columns then.
    shape = (3, 2) if tile_bytes == 1 else (3, 4)
    hidden, weight, bias = head(shape=shape)
    arguments, options = loss_inputs(case, logits_of(hidden, weight, bias)[..., :95])
    options |= {"softcap": 10.0, "temperature": 0.8, "vocab_size": 95}
    rows = {name: options[name] for name in ("softcap", "temperature", "vocab_size")}
    with torch.no_grad():
        logprob = linear_token_stats(hidden, weight, arguments[0], bias=bias, **rows).logprob
    arguments = near(logprob, arguments)
    ours = linear_grpo_loss(hidden, weight, *arguments, bias=bias, tile_bytes=tile_bytes, backend=backend, **options)
    leaves = doubled(hidden, weight, bias)
    theirs = reference.linear_grpo_loss(*leaves[:2], *exact(arguments), bias=leaves[2], **options)
    assert_losses_match(ours, theirs)
    (3 * ours.loss).backward()
    (3 * theirs.loss).backward()
    for tensor, leaf in zip((hidden, weight, bias), leaves, strict=True):
        assert_gradient_matches(tensor.grad, leaf.grad)


# Whose tokens share a ratio, or a weight: a tile of rows without a gradient holds any rows.
@pytest.mark.parametrize("tile_bytes", [1 << 29, 3000])
@pytest.mark.parametrize(
    "case", ["sequence, all terms", "sequence, corrected", "sequence, corrected, for the log alone", "vespo", "gmpo"]
)
def test_a_loss_that_nobody_differentiates_has_the_same_values(case, tile_bytes):
    hidden, weight, bias = head(shape=(3, 4))
    arguments, options = loss_inputs((LOSSES | VARIANTS)[case], logits_of(hidden, weight, bias))
    arguments = near(linear_token_stats(hidden, weight, arguments[0], bias=bias).logprob.detach(), arguments)
    options |= {"bias": bias, "tile_bytes": tile_bytes}
    expected = linear_grpo_loss(hidden, weight, *arguments, **options)
    with torch.no_grad():
        assert_losses_match(linear_grpo_loss(hidden, weight, *arguments, **options), expected)


@pytest.mark.parametrize("tile_bytes", mostly_interpreted(1 << 29, 3000, fast=(3000,)))
def test_a_vocabulary_masked_by_the_bias_matches_the_reference(tile_bytes, backend):
    hidden, weight, bias = head(shape=(3, 4))
    masked = torch.rand(NUM_COLUMNS, device=DEVICE) < 0.4
    with torch.no_grad():
        bias.masked_fill_(masked, -torch.inf)
    targets, advantages = random_targets(logits_of(hidden, weight, bias), outside=False), torch.randn(3, device=DEVICE)
    leaves = doubled(hidden, weight, bias)
    options = {"entropy_coef": 0.1, "temperature": 0.8}
    ours = linear_grpo_loss(
        hidden, weight, targets, advantages, bias=bias, tile_bytes=tile_bytes, backend=backend, **options
    )
    theirs = reference.linear_grpo_loss(*leaves[:2], targets, advantages.double(), bias=leaves[2], **options)
    assert_losses_match(ours, theirs)
    ours.loss.backward()
    theirs.loss.backward()
    for tensor, leaf in zip((hidden, weight, bias), leaves, strict=True):
        assert_gradient_matches(tensor.grad, leaf.grad)
    assert not bias.grad[masked].any()


@pytest.mark.parametrize("tile_bytes", mostly_interpreted(1 << 29, 6000, fast=(), slow=(6000,)))
def test_half_precision_is_as_exact_as_a_linear_layer_and_a_float32_softmax(tile_bytes, backend):
    errors = {"ours": torch.zeros(3), "theirs": torch.zeros(3)}
    interpreted = backend == "triton" and DEVICE == "cpu"
    shape = (4, 12) if interpreted else (4, 24)
    for _ in range(2 if interpreted else 4):
        hidden, weight, _ = head(torch.bfloat16, shape)
        targets = random_targets(logits_of(hidden, weight))
        advantages = torch.randn(4, device=DEVICE)
        leaves = doubled(hidden, weight)
        with torch.no_grad():
            old = reference.linear_token_stats(*leaves, targets).logprob + 0.05 * torch.randn(shape, device=DEVICE)
        expected = reference.linear_grpo_loss(*leaves, targets, advantages.double(), old).loss
        expected.backward()
        naive = [tensor.detach().requires_grad_() for tensor in (hidden, weight)]
        logits = (naive[0] @ naive[1].T).float()
        loss = reference.grpo_loss(logits, targets, advantages, old.float()).loss
        loss.backward()
        ours = linear_grpo_loss(
            hidden, weight, targets, advantages, old.float(), tile_bytes=tile_bytes, backend=backend
        ).loss
        ours.backward()
        for name, value, tensors in (("ours", ours, (hidden, weight)), ("theirs", loss, naive)):
            pairs = [(value, expected), *((leaf.grad, e.grad) for leaf, e in zip(tensors, leaves, strict=True))]
            errors[name] += torch.tensor([(a.double() - b).square().mean().item() for a, b in pairs])
    # Triton's interpreter truncates bfloat16 where hardware rounds: twice the error of storing the gradient.
    ratio = (errors["ours"] / errors["theirs"]).sqrt()
    assert (ratio <= torch.tensor([1.1, 1.5, 1.5] if interpreted else [1.1] * 3)).all(), ratio


@pytest.mark.parametrize("dtype", mostly_interpreted(torch.bfloat16, torch.float16, fast=(torch.bfloat16,)))
@pytest.mark.parametrize("tile_bytes", mostly_interpreted(*TILE_BYTES, fast=(3000,)))
def test_float32_logits_of_a_half_precision_head_are_exact(dtype, tile_bytes, backend):
    shape = (2, 1) if tile_bytes == 1 else (3, 4)
    hidden, weight, bias = head(dtype, shape)
    targets, advantages = torch.randint(95, shape, device=DEVICE), torch.randn(len(hidden), device=DEVICE)
    options = {"vocab_size": 95, "temperature": 0.8, "entropy_coef": 0.1}
    ours = linear_grpo_loss(
        hidden, weight, targets, advantages, bias=bias, tile_bytes=tile_bytes, backend=backend,
        logits_dtype=torch.float32, **options,
    )  # fmt: skip
    leaves = doubled(hidden, weight, bias)
    theirs = reference.linear_grpo_loss(*leaves[:2], targets, advantages.double(), bias=leaves[2], **options)
    # Sums of 17 exact products in float32, of logits up to 30: 2e-6 in a logit, beside the contract's 4e-6.
    torch.testing.assert_close(ours.logprob.double(), theirs.logprob, rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(ours.entropy.double(), theirs.entropy, rtol=2e-5, atol=2e-5)
    ours.loss.backward()
    theirs.loss.backward()
    for tensor, leaf in zip((hidden, weight, bias), leaves, strict=True):
        assert tensor.grad.dtype == dtype
        error = (tensor.grad.double() - leaf.grad).norm() / leaf.grad.norm()
        # An element of the logits' gradient is rounded, and one of the result: each by half a unit in the last place,
        # or a whole one in Triton's interpreter, which truncates bfloat16.
        assert error < 2 * torch.finfo(dtype).eps


def products(rows, function):
    """How many products of (rows, WIDTH) with the head a function computes."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profile:
        function()
    multiplications = 0
    for event in profile.events():
        first = {"aten::mm": 0, "aten::addmm": 1, "aten::addmm_": 1}.get(event.name)  # which input is the left factor
        if first is not None:
            (height, inner), (_, width) = event.input_shapes[first : first + 2]
            multiplications += height * inner * width
    return multiplications / (rows * WIDTH * NUM_COLUMNS)


@pytest.mark.parametrize("tile_bytes", [pytest.param(1 << 29, marks=pytest.mark.slow), 3000])
def test_the_loss_takes_three_products_and_skips_what_has_no_gradient(tile_bytes):
    hidden, weight, _ = head()
    targets, advantages = torch.randint(NUM_COLUMNS, (4, 6), device=DEVICE), torch.ones(4, device=DEVICE)
    mask = torch.ones(4, 6, dtype=torch.bool, device=DEVICE)

    def step(hidden=hidden, weight=weight, **options):
        options = {"advantages": advantages, "mask": mask, "tile_bytes": tile_bytes, "backend": "torch"} | options
        linear_grpo_loss(hidden, weight, targets, **options).loss.backward()

    assert products(24, step) == 3
    assert products(24, lambda: step(weight=weight.detach())) == 2
    assert products(24, lambda: step(hidden=hidden.detach())) == 2
    half = mask.clone()
    half[:2] = False
    assert products(24, lambda: step(mask=half)) == 1.5
    some = advantages.clone()
    some[:3] = 0
    assert products(24, lambda: step(advantages=some)) == 1 + 2 / 4
    # Tokens that share a ratio are needed together: three products while a sequence fits a tile.
    gspo = {"old_logprob": torch.zeros(4, 6, device=DEVICE), "importance_sampling_level": "sequence"}
    assert products(24, lambda: step(**gspo)) == 3
    assert products(24, lambda: step(**gspo | {"mask": half, "tile_bytes": 6000})) == 1.5
    assert products(24, lambda: step(**gspo | {"tile_bytes": 1000})) == 4
    with torch.no_grad():
        assert products(24, lambda: linear_grpo_loss(hidden, weight, targets, advantages, backend="torch")) == 1

    def stats(keep_logits):
        linear_token_stats(
            hidden, weight, targets, keep_logits=keep_logits, tile_bytes=tile_bytes, backend="torch"
        ).logprob.sum().backward()

    assert products(24, lambda: stats(False)) == 4
    assert products(24, lambda: stats(True)) == 3


def test_tokens_without_advantage_are_still_reported(backend):
    hidden, weight, _ = head()
    targets = torch.randint(NUM_COLUMNS, (4, 6), device=DEVICE)
    result = linear_grpo_loss(hidden, weight, targets, torch.zeros(4, device=DEVICE), backend=backend)
    expected = linear_token_stats(hidden, weight, targets, backend=backend)
    torch.testing.assert_close(result.logprob, expected.logprob)
    torch.testing.assert_close(result.entropy, expected.entropy)
    result.loss.backward()
    assert not weight.grad.any()
    assert not hidden.grad.any()


@pytest.mark.parametrize("frozen", mostly_interpreted("hidden", "weight", "bias", fast=("weight",)))
def test_a_gradient_that_nobody_needs_is_not_computed(frozen, backend):
    tensors = dict(zip(("hidden", "weight", "bias"), head(), strict=True))
    tensors[frozen].requires_grad_(False)
    targets, advantages = torch.randint(NUM_COLUMNS, (4, 6), device=DEVICE), torch.randn(4, device=DEVICE)
    linear_grpo_loss(
        **tensors, targets=targets, advantages=advantages, tile_bytes=3000, backend=backend
    ).loss.backward()
    for name, tensor in tensors.items():
        assert (tensor.grad is None) == (name == frozen)


@pytest.mark.slow_interpreted
def test_the_loss_of_the_logits_is_the_same(backend):
    hidden, weight, bias = head()
    targets, advantages = torch.randint(NUM_COLUMNS, (4, 6), device=DEVICE), torch.randn(4, device=DEVICE)
    fused = linear_grpo_loss(hidden, weight, targets, advantages, bias=bias, backend=backend)
    fused_gradients = torch.autograd.grad(fused.loss, (hidden, weight, bias))
    logits = torch.nn.functional.linear(hidden, weight, bias)
    plain = grpo_loss(logits, targets, advantages, backend=backend)
    for ours, theirs in zip(fused_gradients, torch.autograd.grad(plain.loss, (hidden, weight, bias)), strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(fused.loss, plain.loss)


@pytest.mark.slow_interpreted
def test_torch_compile_traces_the_whole_graph(backend):
    hidden, weight, bias = head()
    targets, advantages = torch.randint(NUM_COLUMNS, (4, 6), device=DEVICE), torch.randn(4, device=DEVICE)

    def loss(hidden, weight, bias):
        return linear_grpo_loss(2 * hidden, weight, targets, advantages, bias=bias, backend=backend).loss

    torch.compiler.reset()
    expected = torch.autograd.grad(loss(hidden, weight, bias), (hidden, weight, bias))
    actual = torch.autograd.grad(
        torch.compile(loss, fullgraph=True, backend="aot_eager")(hidden, weight, bias), (hidden, weight, bias)
    )
    for ours, theirs in zip(actual, expected, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.slow_interpreted
def test_every_backward_of_a_kept_graph_gives_the_right_gradients(backend):
    hidden, weight, bias = tensors = head()
    targets, advantages = torch.randint(NUM_COLUMNS, (4, 6), device=DEVICE), torch.randn(4, device=DEVICE)

    def loss():
        return linear_grpo_loss(hidden, weight, targets, advantages, bias=bias, tile_bytes=3000, backend=backend).loss

    expected = torch.autograd.grad(loss(), tensors)
    kept = loss()
    (halved,) = torch.autograd.grad(0.5 * kept, hidden, retain_graph=True)  # a term's share of the gradient's norm
    torch.testing.assert_close(halved, 0.5 * expected[0], rtol=1e-6, atol=0)
    kept.backward(retain_graph=True)
    kept.backward()
    for tensor, gradient in zip(tensors, expected, strict=True):
        torch.testing.assert_close(tensor.grad, 2 * gradient, rtol=1e-6, atol=0)


@pytest.mark.slow_interpreted
def test_a_second_derivative_is_refused(backend):
    hidden, weight, _ = head()
    targets, advantages = torch.randint(NUM_COLUMNS, (4, 6), device=DEVICE), torch.randn(4, device=DEVICE)
    loss = linear_grpo_loss(hidden, weight, targets, advantages, backend=backend).loss
    with pytest.raises(RuntimeError, match="linear_grpo_loss has no second derivative"):
        torch.autograd.grad(loss, weight, create_graph=True)


PEAK = """
import ctypes
import torch
from rlif_kernels import linear_grpo_loss, linear_token_stats

def status(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) / 1024

def step(num_rows):
    hidden = torch.randn(8, num_rows // 8, {width}, dtype=torch.{dtype}, requires_grad=True)
    targets = torch.randint({columns}, hidden.shape[:-1])
    if "{function}" == "linear_grpo_loss":
        linear_grpo_loss(hidden, weight, targets, torch.randn(8), tile_bytes={tile} << 20).loss.backward()
    else:
        linear_token_stats(hidden, weight, targets, tile_bytes={tile} << 20).logprob.sum().backward()

# glibc: freed memory goes back at once, or what the first step leaves would be there for the second, or not.
getattr(ctypes.CDLL(None), "mallopt", lambda *_: 0)(-3, 1 << 16)
torch.set_num_threads(1)
weight = torch.randn({columns}, {width}, dtype=torch.{dtype}, requires_grad=True)
step(8)  # libraries, threads, and the gradient of the weight
weight.grad = None
before = status("VmRSS")
step({rows})
print(status("VmHWM") - before)
"""


def rise_of_peak(**numbers):
    """MiB by which the resident memory of a fresh process rises at most in one step, gradients included."""
    return float(forked.run(PEAK.format(**numbers))[0])


on_linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="reads the peak of resident memory from /proc"
)


@on_linux
@pytest.mark.parametrize("function", ["linear_grpo_loss", pytest.param("linear_token_stats", marks=pytest.mark.slow)])
def test_peak_memory_stays_within_one_tile_of_inputs_and_gradients(function):
    # N = 2048, V = 32000, H = 64, whose logits are 262 MB; the tile may be 16 MB.
    peak = rise_of_peak(function=function, rows=2048, columns=32000, width=64, dtype="float32", tile=16)
    # The tile with the product's workspace, the gradient of the weight, hidden states and theirs, the per-token vectors
    # and what the allocator rounds up.
    assert peak < 16 + 8 + 1 + 5


# N, tile_bytes in MiB, and what tile and sum take: at V = 16000, H = 512 the sum is 31.3 MiB, and 24 MiB are 640 rows.
SUMS = {
    "one tile, smaller than tile and sum": (1024, 24, 1024 * 16000 * 2 / 2**20),
    "several tiles and their sum": (4096, 24, 24 + 31.3),
    "two passes, half a tile and the sum of the hidden states": (4096, 8, 4 + 8),
}


@on_linux
@pytest.mark.parametrize(
    "case", [next(iter(SUMS)), *(pytest.param(case, marks=pytest.mark.slow) for case in list(SUMS)[1:])]
)
def test_peak_memory_of_a_half_precision_head_is_what_its_tiles_say(case):
    rows, tile, expected = SUMS[case]
    peak = rise_of_peak(function="linear_grpo_loss", rows=rows, columns=16000, width=512, dtype="bfloat16", tile=tile)
    gradients = (16000 + 2 * rows) * 512 * 2 / 2**20  # of the weight; hidden states and theirs
    # The per-token vectors, what the products' libraries keep for each shape, and what the allocator rounds up; where
    # half precision is multiplied in float32, a piece of 2 MiB that is cast and the one after it.
    assert peak < expected + gradients + 10 + (4 if products_of_heads._multiplies_in_blocks("cpu") else 0)
