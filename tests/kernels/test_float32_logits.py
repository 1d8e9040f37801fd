"""The logits that the linear ops take statistics of, where these are kept in float32."""

import pytest
import torch

from comparison import DEVICE
from rlif_kernels import float32_logits, linear_token_stats

HALF = [torch.bfloat16, torch.float16]


def head(dtype, shape=(2, 5)):
    hidden = torch.randn(*shape, 16, device=DEVICE).to(dtype).requires_grad_()
    weight = (torch.randn(101, 16, device=DEVICE) / 2).to(dtype).requires_grad_()
    return hidden, weight, torch.randn(101, device=DEVICE).to(dtype).requires_grad_()


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("dtype", [*HALF, torch.float32])
def test_logits_and_gradients_are_those_of_float64(dtype, with_bias):
    hidden, weight, bias = head(dtype)
    leaves = [hidden, weight, *([bias] if with_bias else [])]
    logits = float32_logits(*leaves)
    doubled = [leaf.detach().double().requires_grad_() for leaf in leaves]
    expected = torch.nn.functional.linear(*doubled)
    assert logits.dtype == torch.float32
    # Sums of 17 exact products, of size 1 to 10.
    torch.testing.assert_close(logits.double(), expected, atol=1e-5, rtol=0)
    upstream = torch.randn_like(logits)
    logits.backward(upstream)
    expected.backward(upstream.double())
    for leaf, exact in zip(leaves, doubled, strict=True):
        assert leaf.grad.dtype == dtype
        # The gradient of the logits and the result are rounded, each by half a unit in the last place.
        error = (leaf.grad.double() - exact.grad).norm() / exact.grad.norm()
        assert error < torch.finfo(dtype).eps + 1e-6


@pytest.mark.parametrize("dtype", HALF)
def test_they_are_the_logits_that_the_linear_ops_see(dtype):
    hidden, weight, bias = head(dtype)
    targets = torch.randint(101, (2, 5), device=DEVICE)
    with torch.no_grad():
        log_p = float32_logits(hidden, weight, bias).log_softmax(-1)
        stats = linear_token_stats(hidden, weight, targets, bias=bias, logits_dtype=torch.float32)
    torch.testing.assert_close(stats.logprob, log_p.gather(-1, targets[..., None])[..., 0], atol=1e-5, rtol=0)


def test_a_gradient_that_nobody_needs_is_none_and_strides_are_free():
    _hidden, weight, bias = head(torch.bfloat16)
    wide = torch.randn(5, 2, 40, device=DEVICE).bfloat16().transpose(0, 1)[..., 3:35:2].requires_grad_()
    float32_logits(wide, weight.detach(), bias.detach()).sum().backward()
    copy = wide.detach().clone().requires_grad_()
    float32_logits(copy, weight.detach(), bias.detach()).sum().backward()
    torch.testing.assert_close(wide.grad, copy.grad)
    assert weight.grad is None
    assert bias.grad is None


def test_torch_compile_traces_it_and_opcheck_passes():
    leaves = head(torch.bfloat16)
    torch.library.opcheck(torch.ops.rlif.float32_logits, leaves)
    torch.compiler.reset()
    compiled = torch.compile(float32_logits, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(float32_logits(*leaves).square().sum(), leaves)
    for ours, theirs in zip(torch.autograd.grad(compiled(*leaves).square().sum(), leaves), expected, strict=True):
        assert torch.equal(ours, theirs)


def test_autocast_casts_as_a_linear_layer_would_and_keeps_float32():
    hidden, weight, bias = (leaf.detach() for leaf in head(torch.float32))
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        logits = float32_logits(hidden, weight, bias)
    assert torch.equal(logits, float32_logits(hidden.bfloat16(), weight.bfloat16(), bias.bfloat16()))
    assert logits.dtype == torch.float32


def test_a_second_derivative_and_bad_shapes_are_refused():
    hidden, weight, bias = head(torch.bfloat16)
    with pytest.raises(RuntimeError, match="float32_logits has no second derivative"):
        torch.autograd.grad(float32_logits(hidden, weight).sum(), hidden, create_graph=True)
    with pytest.raises(ValueError, match=r"weight has shape \(101, 8\); expected \(V, 16\)"):
        float32_logits(hidden, weight[:, :8], bias)
    with pytest.raises(TypeError, match=r"bias has dtype torch\.float32; expected torch\.bfloat16"):
        float32_logits(hidden, weight, bias.float())
