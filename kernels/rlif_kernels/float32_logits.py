"""`float32_logits`: the logits that the linear ops take statistics of with ``logits_dtype=torch.float32``.

For whoever needs the logits themselves beside those ops, as sampling does: the two agree to float32's rounding.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlif_kernels.checks import check_head
from rlif_kernels.head.head import autocast, no_autocast
from rlif_kernels.head.products import add_product, multiply, multiply_in_float32
from rlif_kernels.op_names import op_name
from rlif_kernels.op_values import absent_as_empty, fake_head_gradients


def float32_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute ``hidden @ weight.T + bias`` of a half-precision head in float32, differentiable in all three.

    The products of the elements are exact, their sums are in float32, and nothing is rounded after that. The gradient
    of the logits is rounded to the head's dtype before it is multiplied, as autograd does behind ``logits.float()``.

    Args:
        hidden: (..., H) float32, bfloat16 or float16. Under autocast all three are cast as a linear layer casts them.
        weight: (V, H), of hidden's dtype.
        bias: (V,), or None.

    Returns:
        (..., V) float32: twice the bytes of half-precision logits. `head.products` says what the product costs.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not match.
    """
    check_head(hidden, weight, bias)
    hidden, weight, bias = autocast(hidden, weight, bias)
    if hidden.dtype == torch.float32:
        with no_autocast(hidden):
            return torch.nn.functional.linear(hidden, weight, bias)
    logits: Tensor = _forward_op(hidden, weight, bias)
    return logits


@torch.library.custom_op(op_name("float32_logits"), mutates_args=())
def _forward_op(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    with no_autocast(hidden):
        rows = hidden.reshape(-1, hidden.shape[-1])
        logits = hidden.new_empty((len(rows), len(weight)), dtype=torch.float32)
        if bias is None:
            multiply_in_float32(rows, weight.T, out=logits)
        else:
            add_product(logits.copy_(bias.expand_as(logits)), rows, weight.T)
        return logits.view(*hidden.shape[:-1], len(weight))


@_forward_op.register_fake
def _(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return hidden.new_empty((*hidden.shape[:-1], weight.shape[0]), dtype=torch.float32)


@torch.library.custom_op(op_name("float32_logits_backward"), mutates_args=())
def _backward_op(
    grad: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, needs: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    with no_autocast(hidden):
        grad, rows = grad.reshape(-1, grad.shape[-1]), hidden.reshape(-1, hidden.shape[-1])
        narrow = grad.to(weight.dtype)
        parts: list[Tensor | None] = [None, None, None]
        if needs[0]:
            out = torch.empty_like(hidden, memory_format=torch.contiguous_format)
            multiply(narrow, weight, out=out.view(rows.shape))
            parts[0] = out
        if needs[1]:
            parts[1] = multiply(narrow.T, rows, out=torch.empty_like(weight, memory_format=torch.contiguous_format))
        if needs[2] and bias is not None:
            parts[2] = grad.sum(0).to(bias.dtype)
        return absent_as_empty(parts, hidden)


@_backward_op.register_fake
def _(
    grad: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, needs: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    return fake_head_gradients(hidden, weight, bias, needs)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _autograd_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():
        raise RuntimeError("float32_logits has no second derivative: backward was called with create_graph=True")
    parts = _backward_op(grad, *ctx.saved_tensors, list(ctx.needs_input_grad))
    return tuple(part if need else None for part, need in zip(parts, ctx.needs_input_grad, strict=True))


torch.library.register_autograd(op_name("float32_logits"), _autograd_backward, setup_context=_setup_context)
