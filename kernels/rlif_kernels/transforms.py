"""What the ops do beyond one plain backward: torch.func, forward-mode AD, retain_graph, and what they refuse.

No op has a second derivative. A gradient or a tangent is computed by code that autograd cannot see into, so it would
count as a constant, and a second derivative would silently be 0. `first_derivative` makes it an error instead, in
whichever way it is asked for: reverse over reverse, forward over reverse, reverse over forward, forward over forward.
"""

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.autograd import forward_ad


def transformed() -> bool:
    """Whether forward-mode AD or a transform of torch.func is at work around this call."""
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


def watched(tensor: Tensor) -> bool:
    """Whether anything but plain eager execution sees this call: a compiler or tracer, a mode that looks at each op
    (selective checkpointing, counters of operations), a subclass of Tensor, a transform, or that its memory holds other
    numbers than it stands for (the negated view that a conjugate's imaginary part is).

    To those an op is a library op. Elsewhere its function is called as it is: the layers of `torch.library`, all in
    Python, take longer than the work of a small op itself.
    """
    return (
        torch.compiler.is_compiling()
        or type(tensor) not in (Tensor, torch.nn.Parameter)
        or tensor.is_neg()
        or torch._C._len_torch_dispatch_stack() > 0
        or transformed()
    )


def keeps_graph() -> bool:
    """Whether the backward that runs was told retain_graph=True: what it saved may be needed again."""
    return torch._C._autograd._get_current_graph_task_keep_graph()


def _apply(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    return function.apply(*arguments)


_uncompiled: list[Callable[..., Any]] = []


# Dynamo traces neither a Function with forward-mode AD, nor that its library op has none and would give no tangent.
def apply_uncompiled(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    if not _uncompiled:  # made on first use: it loads Dynamo, which takes as long to import as all of torch
        reason = "under torch.func and forward-mode AD the ops of rlif_kernels run uncompiled"
        _uncompiled.append(torch.compiler.disable(_apply, reason=reason))
    return _uncompiled[0](function, *arguments)


def check_first_backward(op: str, ctx: Any, grads: Sequence[Tensor | None]) -> None:
    """Refuse a backward with create_graph=True, or of a batch of upstream gradients at once (is_grads_batched=True).

    torch.func always asks for the former: there `first_derivative` waits until the derivative is differentiated indeed.
    """
    is_batched = torch._C._functorch.is_legacy_batchedtensor
    if not torch.compiler.is_compiling() and any(grad is not None and is_batched(grad) for grad in grads):
        refuse_vmap(op)
    if torch.is_grad_enabled() and not transformed() and not getattr(ctx, "in_transform", False):
        raise RuntimeError(f"{op} has no second derivative: backward was called with create_graph=True")


def refuse_vmap(op: str) -> NoReturn:
    raise RuntimeError(
        f"{op} has no rule for torch.func.vmap: it takes rows of any leading shape, so call it once for all of them"
    )


def first_derivative(op: str, function: Callable[..., Any], at: Sequence[Tensor | None], *tensors: Any) -> Any:
    """Return ``function(*tensors)``, a gradient or the tangents of an op; to differentiate the result is an error.

    Args:
        op: the op's name, for the error.
        at: the op's differentiable inputs, which the result depends on, in whatever way.
        tensors: tensors, None, or tuples and lists with tensors in them.
    """
    if not transformed() and not torch.is_grad_enabled():
        return function(*tensors)
    return apply_uncompiled(_FirstDerivative, op, function, len(at), *at, *tensors)


def detached(op: str, function: Callable[..., Any], *tensors: Tensor) -> Any:
    """Return ``function(*tensors)``, a tuple of tensors and None without derivatives: they count as constants."""
    if not transformed():
        return function(*tensors)
    return apply_uncompiled(_Detached, op, function, *tensors)


class _FirstDerivative(torch.autograd.Function):
    @staticmethod
    def forward(op: str, function: Callable[..., Any], num_at: int, *tensors: Tensor | None) -> Any:
        return function(*tensors[num_at:])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.op = inputs[0]

    @staticmethod
    def backward(ctx: Any, *_: Any) -> NoReturn:
        raise RuntimeError(f"{ctx.op} has no second derivative")

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> NoReturn:
        raise RuntimeError(f"{ctx.op} has no second derivative")

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], op: str, *_: Any) -> NoReturn:
        refuse_vmap(op)


class _Detached(torch.autograd.Function):
    @staticmethod
    def forward(op: str, function: Callable[..., Any], *tensors: Tensor) -> Any:
        return function(*tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor | None, ...]) -> None:
        ctx.mark_non_differentiable(*(value for value in output if value is not None))
        ctx.num_outputs = len(output)

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> tuple[None, ...]:
        return (None,) * ctx.num_outputs

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], op: str, *_: Any) -> NoReturn:
        refuse_vmap(op)
