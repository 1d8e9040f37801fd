"""Autograd of the ops that compute a loss together with its gradient: of logits, or of hidden states and a head.

Such an op returns the loss, further values, and last the gradient of the logits, or those of hidden states, weight and
bias; they are empty where they were not asked for. A backward only scales them.
"""

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from rlif_kernels.op_names import op_name
from rlif_kernels.transforms import (
    check_first_backward,
    first_derivative,
    keeps_graph,
    refuse_vmap,
    transformed,
    watched,
)

# A function, and the library op of it.
Op = tuple[Callable[..., tuple[Tensor, ...]], Callable[..., tuple[Tensor, ...]]]
GRADIENTS = 3  # of hidden states, weight and bias


def logits_loss_functions(
    name: str, forward_of: Op, inplace_of: Op, tangent_of: Callable[..., Tensor]
) -> tuple[type[torch.autograd.Function], type[torch.autograd.Function]]:
    """Return the functions of an op of logits: that of ordinary calls, and that under torch.func and forward-mode AD.

    Both are applied to the logits, tensors that are constants, the tuple of the op's other arguments, whether a
    gradient is wanted, and whether it is to take the logits' own memory. The first returns the loss and the further
    values, the second the gradient too, which transforms want to see; it leaves the logits as they are.

    Args:
        name: of the public function, for messages.
        forward_of: called with the logits detached, the constants, the other arguments, and whether a gradient is
            wanted.
        inplace_of: called with the same but the last; writes the gradient over the logits, and does not return it.
        tangent_of: the loss's, called with the logits' tangent, the logits, the constants, and the tuple of arguments.
    """

    class LogitsLoss(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, logits: Tensor, *rest: Any) -> tuple[Tensor, ...]:
            *constants, arguments, learns, inplace = rest
            plain, op = inplace_of if inplace else forward_of
            call = op if watched(logits) else plain
            if inplace:
                values = list(call(logits.detach(), *constants, *arguments))
                if call is plain:
                    torch.autograd.graph.increment_version(logits)
                gradient = logits
            else:
                *values, gradient = call(logits.detach(), *constants, *arguments, learns)
            ctx.save_for_backward(gradient)
            ctx.mark_non_differentiable(*values[1:])
            ctx.set_materialize_grads(False)
            return tuple(values)

        @staticmethod
        def backward(ctx: Any, grad_loss: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
            check_first_backward(name, ctx, [grad_loss])
            rest = (None,) * (len(ctx.needs_input_grad) - 1)
            if grad_loss is None:
                return None, *rest
            gradient, *at = ctx.saved_tensors
            return scaled(name, gradient, grad_loss, at), *rest

    class TransformedLogitsLoss(torch.autograd.Function):
        @staticmethod
        def forward(logits: Tensor, *rest: Any) -> tuple[Tensor, ...]:
            *constants, arguments, learns, _ = rest
            return forward_of[1](logits.detach(), *constants, *arguments, learns)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
            logits, *constants, ctx.arguments, _, _ = inputs
            ctx.in_transform = True
            ctx.num_outputs = len(output)
            ctx.save_for_backward(output[-1], logits)
            ctx.save_for_forward(logits, *constants)
            ctx.mark_non_differentiable(*output[1:])
            ctx.set_materialize_grads(False)

        backward = staticmethod(LogitsLoss.backward)

        @staticmethod
        def jvp(ctx: Any, tangent: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
            logits, *constants = ctx.saved_tensors
            value = first_derivative(name, tangent_of, (logits,), tangent, logits, *constants, ctx.arguments)
            return value, *(None,) * (ctx.num_outputs - 1)

        @staticmethod
        def vmap(*_: Any) -> NoReturn:
            refuse_vmap(name)

    return LogitsLoss, TransformedLogitsLoss


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


# ---------------------------------------------------------------- the upstream gradient


def scaled(op: str, gradient: Tensor, factor: Tensor, at: Sequence[Tensor]) -> Tensor:
    """A gradient that was computed with its loss, times the loss's upstream gradient: in place, unless it is kept.

    Args:
        at: the op's differentiable inputs, where they are known: under transforms.
    """
    # Compiled code does not know whether it is kept, and a compiler plans the memory of a product itself.
    if torch.compiler.is_compiling() or keeps_graph() or transformed():
        return first_derivative(op, torch.mul, at, gradient, factor)
    if watched(gradient):
        scale_op(gradient, factor)
    else:
        _scale(gradient, factor)
    return gradient


def _scale(tensor: Tensor, factor: Tensor) -> None:
    """Multiply in place by a number () on the same device: a loss's upstream gradient, nearly always 1."""
    if tensor.device.type == "cpu":
        if factor != 1:
            tensor.mul_(factor)
        return
    try:
        from rlif_kernels.backends.triton import scale_unless_one
    except ImportError:
        tensor.mul_(factor)
    else:
        scale_unless_one(tensor, factor)


scale_op = torch.library.custom_op(op_name("scale_"), _scale, mutates_args=("tensor",))
