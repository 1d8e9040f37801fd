"""Statistics of a head's logits, tile by tile: values, the three gradients, and what a tile may hold."""

from itertools import product

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from comparison import (
    DEVICE,
    ROW_FIELDS,
    assert_values_match,
    mostly_interpreted,
    present,
    random_targets,
    upstream_gradients,
    weighted_sum,
)
from losses import assert_gradient_matches
from rlif_kernels import linear_token_stats, reference, token_stats

NUM_COLUMNS, WIDTH = 101, 16
# Bytes that hold everything; some rows and some columns; less than one row.
TILE_BYTES = [1 << 29, 3000, 1]


def head(dtype=torch.float32, shape=(3, 7)):
    hidden = torch.randn(*shape, WIDTH, device=DEVICE).to(dtype).requires_grad_()
    weight = (torch.randn(NUM_COLUMNS, WIDTH, device=DEVICE) / 2).to(dtype).requires_grad_()
    bias = torch.randn(NUM_COLUMNS, device=DEVICE).to(dtype).requires_grad_()
    logits = torch.nn.functional.linear(hidden, weight, bias)
    return hidden, weight, bias, random_targets(logits, 90)


def few_rows(tile_bytes):
    """More rows than a tile holds, and few where tiles hold least: there are as many as rows and columns then."""
    return (1, 3) if tile_bytes == 1 else (2, 5)


def doubled(*tensors):
    return [tensor.detach().double().requires_grad_() for tensor in tensors]


@pytest.mark.parametrize("tile_bytes", mostly_interpreted(*TILE_BYTES, fast=(3000,)))
@pytest.mark.parametrize("keep_logits", mostly_interpreted(None, True, False, fast=(True, False)))
def test_every_field_and_option_matches_the_reference(tile_bytes, keep_logits, backend):
    shape = few_rows(tile_bytes)
    hidden, weight, bias, targets = head(shape=shape)
    options = {
        "mask": torch.rand(shape, device=DEVICE) > 0.3, "vocab_size": 95, "softcap": 10.0, "outputs": ROW_FIELDS,
        "temperature": torch.rand(shape, device=DEVICE) + 0.5,
    }  # fmt: skip
    stats = linear_token_stats(
        hidden, weight, targets, bias=bias, tile_bytes=tile_bytes, keep_logits=keep_logits, backend=backend, **options
    )
    exact = doubled(hidden, weight, bias)
    options["temperature"] = options["temperature"].double()
    expected = reference.linear_token_stats(*exact[:2], targets, bias=exact[2], **options)
    assert_values_match(stats, expected)
    weights = upstream_gradients(targets.shape)
    weighted_sum(stats, weights).backward()
    weighted_sum(expected, weights).backward()
    for ours, theirs in zip((hidden, weight, bias), exact, strict=True):
        assert_gradient_matches(ours.grad, theirs.grad)
    assert not weight.grad[95:].any()
    assert not hidden.grad[~options["mask"]].any()


@pytest.mark.parametrize("keep_logits", mostly_interpreted(True, False, fast=(True,)))
def test_a_vocabulary_masked_by_the_bias_matches_the_reference(keep_logits, backend):
    hidden, weight, bias, _ = head(shape=(3, 4))
    with torch.no_grad():
        bias[::3] = -torch.inf
    targets = random_targets(torch.nn.functional.linear(hidden, weight, bias))
    exact = doubled(hidden, weight, bias)
    stats = linear_token_stats(
        hidden,
        weight,
        targets,
        bias=bias,
        outputs=ROW_FIELDS,
        tile_bytes=3000,
        keep_logits=keep_logits,
        backend=backend,
    )
    expected = reference.linear_token_stats(*exact[:2], targets, bias=exact[2], outputs=ROW_FIELDS)
    assert_values_match(stats, expected)
    weights = upstream_gradients(targets.shape)
    weighted_sum(stats, weights).backward()
    weighted_sum(expected, weights).backward()
    for ours, theirs in zip((hidden, weight, bias), exact, strict=True):
        assert_gradient_matches(ours.grad, theirs.grad)


@pytest.mark.parametrize("tile_bytes", mostly_interpreted(1 << 29, 6000, fast=(), slow=(6000,)))
def test_half_precision_is_as_exact_as_a_linear_layer_and_a_float32_softmax(tile_bytes, backend):
    errors = {"ours": torch.zeros(3), "theirs": torch.zeros(3)}
    interpreted = backend == "triton" and DEVICE == "cpu"
    shape = (4, 12) if interpreted else (4, 24)
    for _ in range(2 if interpreted else 4):
        hidden, weight, _, targets = head(torch.bfloat16, shape)
        upstream = torch.randn(shape, device=DEVICE)
        exact = doubled(hidden, weight)
        expected = reference.linear_token_stats(*exact, targets).logprob
        (expected * upstream).sum().backward()
        naive = [tensor.detach().requires_grad_() for tensor in (hidden, weight)]
        logprob = torch.log_softmax((naive[0] @ naive[1].T).float(), -1).gather(-1, targets[..., None])[..., 0]
        (logprob * upstream).sum().backward()
        ours = linear_token_stats(hidden, weight, targets, tile_bytes=tile_bytes, backend=backend).logprob
        (ours * upstream).sum().backward()
        for name, value, leaves in (("ours", ours, (hidden, weight)), ("theirs", logprob, naive)):
            pairs = [(value, expected), *((leaf.grad, e.grad) for leaf, e in zip(leaves, exact, strict=True))]
            errors[name] += torch.tensor([(a.double() - b).square().mean().item() for a, b in pairs])
    # Triton's interpreter truncates bfloat16 where hardware rounds: twice the error of storing the gradient.
    ratio = (errors["ours"] / errors["theirs"]).sqrt()
    assert (ratio <= torch.tensor([1.1, 1.5, 1.5] if interpreted else [1.1] * 3)).all(), ratio


# Sums of 17 exact products in float32, of logits up to 30: 2e-6 in a logit, beside the contract's 4e-6.
EXACT_LOGITS_TOLERANCE = 2e-5


@pytest.mark.parametrize(
    "dtype", mostly_interpreted(torch.bfloat16, torch.float16, torch.float32, fast=(torch.bfloat16,))
)
@pytest.mark.parametrize("tile_bytes", mostly_interpreted(*TILE_BYTES, fast=(3000,)))
@pytest.mark.parametrize("keep_logits", mostly_interpreted(True, False, fast=(False,)))
def test_float32_logits_of_a_half_precision_head_are_exact(dtype, tile_bytes, keep_logits, backend):
    shape = few_rows(tile_bytes)
    hidden, weight, bias, targets = head(dtype, shape)
    options = {"vocab_size": 95, "softcap": 20.0, "outputs": ROW_FIELDS, "mask": torch.rand(shape, device=DEVICE) > 0.3}
    stats = linear_token_stats(
        hidden, weight, targets, bias=bias, tile_bytes=tile_bytes, keep_logits=keep_logits, backend=backend,
        logits_dtype=torch.float32, **options,
    )  # fmt: skip
    exact = doubled(hidden, weight, bias)
    expected = reference.linear_token_stats(*exact[:2], targets, bias=exact[2], **options)
    for value, target in zip(present(stats), present(expected), strict=True):
        assert ((value - target).abs() <= EXACT_LOGITS_TOLERANCE * target.abs().clamp(min=1)).all()
    weights = upstream_gradients(targets.shape)
    weighted_sum(stats, weights).backward()
    weighted_sum(expected, weights).backward()
    for ours, theirs in zip((hidden, weight, bias), exact, strict=True):
        assert ours.grad.dtype == dtype
        error = (ours.grad.double() - theirs.grad).norm() / theirs.grad.norm()
        # An element of the logits' gradient is rounded, and one of the result: each by half a unit in the last place,
        # or a whole one in Triton's interpreter, which truncates bfloat16.
        assert error < 2 * torch.finfo(dtype).eps + 4e-6


@pytest.mark.slow_interpreted
def test_the_statistics_are_those_of_the_logits_to_the_bit(backend):
    hidden, weight, bias, targets = head()
    with torch.no_grad():
        stats = linear_token_stats(hidden, weight, targets, bias=bias, outputs=ROW_FIELDS, backend=backend)
        logits = torch.nn.functional.linear(hidden, weight, bias)
        expected = token_stats(logits, targets, outputs=ROW_FIELDS, backend=backend)
    for value, target in zip(present(stats), present(expected), strict=True):
        assert torch.equal(value, target)


@pytest.mark.not_interpreted  # a kernel sees none of them, only their products with the head
def test_hidden_states_of_any_strides_are_taken_as_they_are(backend):
    hidden, weight, _, targets = head(shape=(7, 3))
    wide = torch.randn(3, 9, 2 * WIDTH, device=DEVICE)
    views = (
        hidden.detach().transpose(0, 1),
        wide[:, 1:8, :WIDTH],
        wide[:, 1:8, ::2],
        torch.randn(1, 1, WIDTH, device=DEVICE).expand(3, 7, -1),
    )
    for view in views:
        leaf, copy = view.detach().requires_grad_(), view.clone().requires_grad_()
        for tensor in (leaf, copy):
            weight.grad = None
            linear_token_stats(tensor, weight, targets.T, tile_bytes=3000, backend=backend).logprob.sum().backward()
        torch.testing.assert_close(leaf.grad, copy.grad)


def test_masked_rows_take_part_in_nothing(backend):
    hidden, weight, _, targets = head()
    mask = torch.rand(3, 7, device=DEVICE) > 0.5
    poisoned = hidden.detach().clone()
    poisoned[~mask] = torch.nan
    poisoned.requires_grad_()
    stats = linear_token_stats(poisoned, weight, targets, mask=mask, tile_bytes=3000, backend=backend)
    stats.logprob.sum().backward()
    assert stats.logprob.isfinite().all()
    assert poisoned.grad.isfinite().all()
    assert weight.grad.isfinite().all()


@pytest.mark.parametrize("frozen", mostly_interpreted("hidden", "weight", "bias", fast=("weight",)))
def test_a_gradient_that_nobody_needs_is_not_computed(frozen, backend):
    tensors = dict(zip(("hidden", "weight", "bias", "targets"), head(), strict=True))
    tensors[frozen].requires_grad_(False)
    stats = linear_token_stats(**tensors, tile_bytes=3000, backend=backend)
    (stats.logprob + stats.entropy).sum().backward()
    for name in ("hidden", "weight", "bias"):
        assert (tensors[name].grad is None) == (name == frozen)


@pytest.mark.parametrize("num_rows", [0, 1])
def test_no_rows_and_none_that_count_give_empty_results_and_zero_gradients(num_rows, backend):
    hidden, weight, bias, targets = head(shape=(num_rows, 7))
    stats = linear_token_stats(hidden, weight, targets.fill_(-100), bias=bias, backend=backend)
    assert stats.logprob.shape == (num_rows, 7)
    assert not stats.logprob.any()
    stats.logprob.sum().backward()
    for tensor in (hidden, weight, bias):
        assert tensor.grad.shape == tensor.shape
        assert not tensor.grad.any()


@pytest.mark.parametrize(
    ("keep_logits", "dtype"),
    mostly_interpreted(
        *product((True, False), (torch.float32, torch.bfloat16)),
        fast=(),
        slow=((True, torch.bfloat16), (False, torch.float32)),
    ),
)
def test_torch_compile_and_checkpointing_change_nothing(keep_logits, dtype, backend):
    hidden, weight, bias, targets = head(dtype, (2, 5))

    def loss(hidden, weight, bias):
        stats = linear_token_stats(
            2 * hidden, weight, targets, bias=bias, keep_logits=keep_logits, tile_bytes=3000, backend=backend,
            logits_dtype=torch.float32,
        )  # fmt: skip
        return (stats.logprob * stats.entropy.detach() - stats.self_certainty).sum()

    torch.compiler.reset()
    expected = torch.autograd.grad(loss(hidden, weight, bias), (hidden, weight, bias))
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for variant in (compiled, lambda *leaves: checkpoint(loss, *leaves, use_reentrant=False)):
        actual = torch.autograd.grad(variant(hidden, weight, bias), (hidden, weight, bias))
        for ours, theirs in zip(actual, expected, strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.slow_interpreted
def test_opcheck_passes(backend):
    hidden, weight, bias, targets = head(torch.bfloat16, (2, 2))  # two tiles
    arguments = (targets, None, None, 0.7, 0.0, 95, "logprob,entropy", backend, "", 1000, torch.float32, NUM_COLUMNS)
    torch.library.opcheck(torch.ops.rlif.linear_token_stats, (hidden, weight, bias, *arguments, False, 0))
    # The backward overwrites the logits that were kept, which the check's own tracing does not provide for.
    torch.library.opcheck(
        torch.ops.rlif.linear_token_stats, (hidden, weight, bias, *arguments, True, 0),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )  # fmt: skip


@pytest.mark.slow_interpreted
def test_autocast_casts_as_a_linear_layer_would(backend):
    hidden, weight, bias, targets = head()
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        stats = linear_token_stats(hidden, weight, targets, bias=bias, backend=backend)
        mixed = linear_token_stats(hidden.bfloat16(), weight, targets, bias=bias, backend=backend)
    low = [tensor.detach().bfloat16() for tensor in (hidden, weight, bias)]
    expected = linear_token_stats(*low[:2], targets, bias=low[2], backend=backend)
    assert torch.equal(stats.logprob, expected.logprob)
    assert torch.equal(mixed.logprob, expected.logprob)
    stats.logprob.sum().backward()
    assert weight.grad.dtype == torch.float32


@pytest.mark.slow_interpreted
@pytest.mark.parametrize("keep_logits", [True, False])
def test_a_second_backward_gives_the_same_gradient(keep_logits, backend):
    hidden, weight, _, targets = head()
    loss = linear_token_stats(hidden, weight, targets, keep_logits=keep_logits, backend=backend).logprob.sum()
    (halved,) = torch.autograd.grad(0.5 * loss, hidden, retain_graph=True)
    loss.backward(retain_graph=True)
    first = weight.grad.clone()
    torch.testing.assert_close(2 * halved, hidden.grad)
    loss.backward()
    # The last backward may take the logits that were kept, where the others compute them anew in tiles of columns.
    torch.testing.assert_close(weight.grad, 2 * first)


HIDDEN, WEIGHT, TARGETS = torch.zeros(2, 3, 4), torch.zeros(8, 4), torch.zeros(2, 3, dtype=torch.long)

BAD = {
    "a weight of another width": ({"weight": torch.zeros(8, 5)}, ValueError, r"weight has shape \(8, 5\); expected"),
    "a weight of another dtype": ({"weight": WEIGHT.half()}, TypeError, "weight has dtype torch.float16; expected"),
    "a weight elsewhere": ({"weight": WEIGHT.to("meta")}, ValueError, "weight is on meta; expected cpu"),
    "a bias of another size": ({"bias": torch.zeros(4)}, ValueError, r"bias has shape \(4,\); expected \(8,\)"),
    "float64 hidden states": ({"hidden": HIDDEN.double()}, TypeError, "hidden has dtype torch.float64"),
    "targets of another shape": (
        {"targets": TARGETS[:1]}, ValueError, r"targets has shape \(1, 3\); expected \(2, 3\), the shape of hidden",
    ),
    "logits of a third dtype": (
        {"hidden": HIDDEN.half(), "weight": WEIGHT.half(), "logits_dtype": torch.bfloat16}, ValueError,
        r"logits_dtype is torch.bfloat16; expected torch.float32, torch.float16 \(the dtype of hidden\) or None",
    ),
    "logits narrower than the head": (
        {"logits_dtype": torch.bfloat16}, ValueError, "logits_dtype is torch.bfloat16; expected torch.float32 or None",
    ),
    "a dtype by its name": ({"logits_dtype": "float32"}, TypeError, "logits_dtype is .float32.; expected a torch"),
    "no tile": ({"tile_bytes": 0}, ValueError, "tile_bytes is 0; expected a positive number of bytes"),
    "a target out of range": ({"targets": TARGETS + 8}, IndexError, r"targets\[0, 0\] is 8; expected an id"),
    "keep_logits as a number": ({"keep_logits": 1}, TypeError, "keep_logits is 1; expected True, False or None"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_argument_is_named(case):
    changed, error, message = BAD[case]
    with pytest.raises(error, match=message):
        linear_token_stats(**({"hidden": HIDDEN, "weight": WEIGHT, "targets": TARGETS} | changed))
