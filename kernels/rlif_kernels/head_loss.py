"""Autograd of the ops that compute a loss of hidden states and a head together with the gradients of both.

Such an op returns the loss, further values, and last the gradients of hidden states, weight and bias, empty where they
were not asked for. A backward only scales these.
"""

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor

from rlif_kernels.grpo_loss import scaled
from rlif_kernels.transforms import check_first_backward, first_derivative, refuse_vmap

GRADIENTS = 3  # of hidden states, weight and bias


def head_loss_functions(
    name: str, op: Callable[..., tuple[Tensor, ...]], tangent: Callable[..., Tensor]
) -> tuple[type[torch.autograd.Function], type[torch.autograd.Function]]:
    """Return the functions of an op: that of ordinary calls, and that of calls under torch.func and forward-mode AD.

    Both are applied to hidden states, weight, bias or None, the tuple of the op's other arguments, and whether
    gradients are wanted at all. The first returns the loss and the further values, the second the three gradients too,
    which transforms want to see.

    Args:
        name: of the public function, for messages.
        op: called with the first three detached, the other arguments, and which of the three gradients are needed.
        tangent: of the loss, called with the three, their tangents or None, and the tuple of the other arguments.
    """

    class HeadLoss(torch.autograd.Function):
        @staticmethod
        def forward(
            ctx: Any,
            hidden: Tensor,
            weight: Tensor,
            bias: Tensor | None,
            arguments: tuple[Any, ...],
            grad_enabled: bool,
        ) -> tuple[Tensor, ...]:
            needs = [grad_enabled and need for need in ctx.needs_input_grad[:GRADIENTS]]
            bias = None if bias is None else bias.detach()
            *values, d_hidden, d_weight, d_bias = op(hidden.detach(), weight.detach(), bias, *arguments, needs)
            ctx.needs = needs
            ctx.save_for_backward(d_hidden, d_weight, d_bias)
            ctx.mark_non_differentiable(*values[1:])
            ctx.set_materialize_grads(False)
            return tuple(values)

        @staticmethod
        def backward(ctx: Any, grad_loss: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
            check_first_backward(name, ctx, [grad_loss])
            parts: list[Tensor | None] = [None] * GRADIENTS
            if grad_loss is not None:
                saved = ctx.saved_tensors
                for index, gradient in enumerate(saved[:GRADIENTS]):
                    if ctx.needs[index]:
                        parts[index] = scaled(name, gradient, grad_loss, at=saved[GRADIENTS:])
            return *parts, None, None

    class TransformedHeadLoss(torch.autograd.Function):
        @staticmethod
        def forward(
            hidden: Tensor, weight: Tensor, bias: Tensor | None, arguments: tuple[Any, ...], grad_enabled: bool
        ) -> tuple[Tensor, ...]:
            needs = [grad_enabled and x is not None for x in (hidden, weight, bias)]
            bias = None if bias is None else bias.detach()
            return op(hidden.detach(), weight.detach(), bias, *arguments, needs)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
            *tensors, ctx.arguments, _ = inputs
            ctx.in_transform = True
            ctx.needs = ctx.needs_input_grad[:GRADIENTS]
            ctx.num_outputs = len(output)
            ctx.save_for_backward(*output[-GRADIENTS:], *tensors)
            ctx.save_for_forward(*tensors)
            ctx.mark_non_differentiable(*output[1:])
            ctx.set_materialize_grads(False)

        backward = staticmethod(HeadLoss.backward)

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor | None, ...]:
            tensors = ctx.saved_tensors
            value = first_derivative(name, tangent, tensors, *tensors, *tangents[:GRADIENTS], ctx.arguments)
            return value, *(None,) * (ctx.num_outputs - 1)

        @staticmethod
        def vmap(*_: Any) -> NoReturn:
            refuse_vmap(name)

    return HeadLoss, TransformedHeadLoss
