"""Rows with several targets each: K log-probabilities from one read, as exact as that of one target."""

import pytest
import torch
from torch import func

from comparison import (
    DEVICE,
    ROW_FIELDS,
    assert_gradients_match,
    assert_values_match,
    gradient_sizes,
    mostly_interpreted,
    random_targets,
    upstream_gradients,
    weighted_sum,
)
from rlif_kernels import captured_mass, grpo_loss, linear_token_stats, reference, token_stats
from rlif_kernels.functional import DIFFERENTIABLE


def several(logits, count, num_columns=None):
    """(..., K) targets: of each kind, the last the same as the first, and one to skip."""
    targets = torch.stack([random_targets(logits, num_columns) for _ in range(count)], -1)
    targets[..., -1] = targets[..., 0]
    targets.view(-1, count)[0, 1] = -100
    targets.view(-1, count)[-1] = -100  # a row without any is a masked one
    return targets


def weights_of(targets):
    weights = upstream_gradients(targets.shape[:-1])
    return weights | {"logprob": torch.randn(targets.shape, device=DEVICE)}


def check(logits, targets, backend, **options):
    """Values and gradients against the float64 reference; all fields at once."""
    ours, exact = logits.detach().requires_grad_(), logits.detach().double().requires_grad_()
    stats = token_stats(ours, targets, outputs=ROW_FIELDS, backend=backend, **options)
    expected = reference.token_stats(exact, targets, outputs=ROW_FIELDS, **options)
    assert_values_match(stats, expected)
    weights = weights_of(targets)
    for result in (stats, expected):
        weighted_sum(result, weights).backward()
    sizes = gradient_sizes(weights, expected)
    sizes["logprob"] = sizes["logprob"].abs().sum(-1)
    assert_gradients_match(ours.grad, exact.grad, sizes, options.get("temperature", 1.0))
    return stats


@pytest.mark.parametrize(
    "options",
    mostly_interpreted(
        {},
        {"temperature": 0.7, "vocab_size": 290},
        {"softcap": 20.0, "temperature": 1.4},
        fast=({"softcap": 20.0, "temperature": 1.4},),
    ),
    ids=str,
)
@pytest.mark.parametrize("count", [2, 5])
def test_values_and_gradients_match_the_reference(count, options, backend):
    logits = 3 * torch.randn(3, 4, 300, device=DEVICE)
    logits[1, 2, 7] = -torch.inf
    targets = several(logits, count, options.get("vocab_size"))
    targets[1, 2, 0] = 7
    stats = check(logits, targets, backend, **options)
    assert stats.logprob[1, 2, 0] == -torch.inf


@pytest.mark.slow_interpreted
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_row_temperatures(dtype, backend):
    logits = (4 * torch.randn(2, 5, 1031, device=DEVICE)).to(dtype)
    check(logits, several(logits, 3), backend, temperature=0.5 + torch.rand(2, 5, device=DEVICE))


def test_each_of_them_is_what_it_is_alone(backend):
    logits = 3 * torch.randn(6, 300, device=DEVICE)
    targets = torch.stack([random_targets(logits) for _ in range(3)], -1)
    together = token_stats(logits, targets, backend=backend)
    for k in range(3):
        alone = token_stats(logits, targets[:, k], backend=backend)
        torch.testing.assert_close(together.logprob[:, k], alone.logprob, rtol=1e-6, atol=1e-6)
    assert torch.equal(together.entropy, alone.entropy)


def test_large_logits_lose_nothing(backend):
    # The largest of 10^4 and more is a product with the temperature that float32 rounds.
    logits = 1e4 + (3 * torch.randn(4, 300, device=DEVICE) * 256).round() / 256
    check(logits, several(logits, 2), backend, temperature=0.7)


def test_the_gradient_of_a_token_that_is_nearly_certain_keeps_its_sign_and_size(backend):
    logits = torch.zeros(1, 300, device=DEVICE)
    logits[0, 17] = 30.0
    logits.requires_grad_()
    token_stats(logits, torch.tensor([[5, 17]], device=DEVICE), backend=backend).logprob[0, 1].backward()
    exact = logits.detach().double().requires_grad_()
    reference.token_stats(exact, torch.tensor([[5, 17]], device=DEVICE)).logprob[0, 1].backward()
    torch.testing.assert_close(logits.grad[0, 17].double(), 1 - exact.softmax(-1)[0, 17], rtol=1e-3, atol=0)
    torch.testing.assert_close(logits.grad.double(), exact.grad, rtol=1e-3, atol=1e-14)


@pytest.mark.parametrize("inplace_backward", [False, True])
def test_the_gradient_may_take_the_place_of_the_logits(inplace_backward, backend):
    leaf = 2 * torch.randn(4, 100, device=DEVICE)
    leaf.requires_grad_()
    targets = several(leaf, 3)
    stats = token_stats(leaf * 1, targets, inplace_backward=inplace_backward, backend=backend)
    stats.logprob.sum().backward()
    exact = leaf.detach().double().requires_grad_()
    reference.token_stats(exact, targets).logprob.sum().backward()
    torch.testing.assert_close(leaf.grad.double(), exact.grad, rtol=0, atol=6e-6)


@pytest.mark.parametrize("tile_bytes", mostly_interpreted(3000, 1 << 20, fast=(3000,)))
@pytest.mark.parametrize("keep_logits", [False, True])
def test_through_a_head_they_match_the_reference(keep_logits, tile_bytes, backend):
    tensors = [torch.randn(shape, device=DEVICE) for shape in ((3, 4, 16), (101, 16), (101,))]
    ours, exact = (
        [x.detach().to(dtype, copy=True).requires_grad_() for x in tensors] for dtype in (torch.float32, torch.float64)
    )
    targets = several(tensors[0] @ tensors[1].T, 3, 95)
    options = {"vocab_size": 95, "softcap": 20.0, "temperature": 0.8, "outputs": DIFFERENTIABLE}
    stats = linear_token_stats(
        *ours[:2], targets, bias=ours[2], keep_logits=keep_logits, tile_bytes=tile_bytes, backend=backend, **options
    )
    expected = reference.linear_token_stats(*exact[:2], targets, bias=exact[2], **options)
    weights = weights_of(targets)
    for result in (stats, expected):
        weighted_sum(result, weights).backward()
    # Products of 16 terms in float32 beside products in float64, as in the tests of one target.
    torch.testing.assert_close(stats.logprob.double(), expected.logprob, rtol=1e-5, atol=2e-5)
    for leaf, other in zip(ours, exact, strict=True):
        torch.testing.assert_close(leaf.grad.double(), other.grad, rtol=1e-4, atol=1e-4)


def test_tangents_match_the_reference(backend):
    logits, tangent = 2 * torch.randn(3, 4, 60, device=DEVICE), torch.randn(3, 4, 60, device=DEVICE)
    targets = several(logits, 3)
    options = {"outputs": DIFFERENTIABLE, "softcap": 20.0, "temperature": 0.8}

    def of(function, **more):
        def fields(x):
            stats = function(x, targets, **options, **more)
            return tuple(getattr(stats, name) for name in DIFFERENTIABLE)

        return fields

    _, ours = func.jvp(of(token_stats, backend=backend), (logits,), (tangent,))
    _, theirs = func.jvp(of(reference.token_stats), (logits.double(),), (tangent.double(),))
    for value, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(value.double(), expected, rtol=4e-6, atol=4e-6)


@pytest.mark.slow
def test_the_op_passes_opcheck_and_compiles_with_several_targets():
    logits = torch.randn(3, 40, device=DEVICE, requires_grad=True)
    targets = several(logits, 2)
    names = ",".join(("logprob", "entropy"))
    arguments = (logits, targets, None, None, 1.0, 0.0, 40, names, "torch", "", False, 0)
    torch.library.opcheck(torch.ops.rlif.token_stats.default, arguments)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def loss(x):
        stats = token_stats(x, targets, outputs=("logprob", "entropy"))
        return captured_mass(stats.logprob, targets).sum() + stats.entropy.sum()

    loss(logits).backward()
    exact = logits.detach().double().requires_grad_()
    expected = reference.token_stats(exact, targets)
    (captured_mass(expected.logprob, targets).sum() + expected.entropy.sum()).backward()
    torch.testing.assert_close(logits.grad.double(), exact.grad, rtol=0, atol=4e-6)


def test_the_mass_of_targets_counts_each_id_once():
    logits = torch.randn(5, 30, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([[3, 3, 7]] * 4 + [[4, -100, 4]])
    mass = captured_mass(reference.token_stats(logits, targets).logprob, targets)
    p = logits.softmax(-1)
    torch.testing.assert_close(mass, torch.cat([p[:4, 3] + p[:4, 7], p[4:, 4]]))


def test_losses_take_one_target_a_row_and_shapes_that_do_not_match_are_named():
    logits, targets = torch.randn(2, 3, 40), torch.zeros(2, 3, 2, dtype=torch.long)
    with pytest.raises(ValueError, match=r"targets has shape \(2, 3, 2\); expected \(2, 3\)"):
        grpo_loss(logits, targets, torch.ones(2))
    for wrong in (targets[:1], targets[..., :0], targets[..., None]):
        with pytest.raises(ValueError, match=r"targets has shape .*; expected \(2, 3\)"):
            token_stats(logits, wrong)
    targets[1, 0, 1] = 40
    with pytest.raises(IndexError, match=r"targets\[1, 0, 1\] is 40; expected an id in \[0, 40\)"):
        token_stats(logits, targets)


def test_no_rows_and_rows_without_leading_dimensions_have_their_shapes(backend):
    none = torch.randn(0, 50, device=DEVICE, requires_grad=True)
    stats = token_stats(none, torch.zeros(0, 3, dtype=torch.long, device=DEVICE), backend=backend)
    assert (stats.logprob.shape, stats.entropy.shape) == ((0, 3), (0,))
    stats.logprob.sum().backward()
    assert none.grad.shape == (0, 50)
    one = token_stats(torch.randn(50, device=DEVICE), torch.tensor([3, 3, 7], device=DEVICE), backend=backend)
    assert (one.logprob.shape, one.entropy.shape) == ((3,), ())
