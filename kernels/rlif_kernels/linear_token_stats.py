"""`linear_token_stats`: `token_stats` of a head's logits, which never exist as a whole.

`linear_head` has the tiles. The forward multiplies once; the backward multiplies three times, one of them to have the
logits again, unless they were kept.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlif_kernels.backends import backend_for
from rlif_kernels.checks import check_head, check_tile_bytes, row_arguments
from rlif_kernels.head import head as linear_head
from rlif_kernels.head.head import DEFAULT_TILE_BYTES, Head, HeadRows
from rlif_kernels.stats import DEFAULT_OUTPUTS, STATE_ROWS, TokenStats
from rlif_kernels.token_stats import (
    fake_fields,
    field_gradients,
    mark_differentiable,
    present_gradients,
    requested_fields,
    shaped_fields,
)

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def linear_token_stats(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    mask: Tensor | None = None,
    vocab_size: int | None = None,
    softcap: float | None = None,
    outputs: tuple[str, ...] = DEFAULT_OUTPUTS,
    keep_logits: bool | None = None,
    tile_bytes: int = DEFAULT_TILE_BYTES,
    group: "ProcessGroup | None" = None,
    backend: str | None = None,
) -> TokenStats:
    """`token_stats` of ``hidden @ weight.T + bias``, differentiable in all three, with one tile of logits in memory.

    Args:
        hidden: (..., H) float32, bfloat16 or float16, any strides.
        weight: (V, H), of hidden's dtype. Under autocast both are cast as a linear layer would cast them.
        targets: (...) integer ids of the chosen tokens. A row whose target is -100 is masked.
        bias: (V,), or None.
        mask: (...) bool. False rows take part in no product; their outputs and gradients are 0.
        vocab_size: the number of real rows of the weight when the head is padded; the rest takes part in nothing.
        keep_logits: keep all logits for the backward, N·V elements of hidden's dtype, which saves it a product and
            destroys them. None keeps them if `tile_bytes` holds them all.
        tile_bytes: bytes of logits to have at a time. `linear_head` says how a tile's shape follows from it.
        group: a torch.distributed group over which the rows of the weight are sharded, as `token_stats` has it for
            columns; `hidden` is the same on every rank, and its gradient is summed over the ranks.

    The other arguments, and the results, are those of `token_stats`. A gradient that nobody needs (a frozen head,
    frozen hidden states) costs no product.

    Raises:
        ValueError, TypeError, IndexError: as `token_stats` does; shapes, dtypes or devices of hidden, weight and bias
            that do not match.
        RuntimeError: on a second derivative; on a second backward where the logits were kept.
    """
    check_head(hidden, weight, bias)
    hidden, weight, bias = autocast(hidden, weight, bias)
    check_tile_bytes(tile_bytes)
    if keep_logits is not None and not isinstance(keep_logits, bool):
        raise TypeError(f"keep_logits is {keep_logits!r}; expected True, False or None")
    rows, largest_slice = row_arguments(
        hidden, "hidden", len(weight), targets, temperature, mask, vocab_size, softcap, outputs, backend, group
    )
    if keep_logits is None:
        keep_logits = rows.targets.numel() * largest_slice * hidden.element_size() <= tile_bytes
    learns = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (hidden, weight, bias))
    values = _forward_op(hidden, weight, bias, *rows, tile_bytes, largest_slice, keep_logits and learns)
    return requested_fields(values, rows.outputs)


def autocast(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Cast as autocast would before a linear layer; the library ops compute in the dtype that they are given."""
    if not torch.is_autocast_enabled(hidden.device.type):
        return hidden, weight, bias
    dtype = torch.get_autocast_dtype(hidden.device.type)
    return hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


# ---------------------------------------------------------------- library ops
#
# The outputs of the forward op are the fields in the order of FIELDS, then the row state, then the logits if kept: as
# many rows as there are targets, of which those not masked fill the front.


@torch.library.custom_op("rlif::linear_token_stats", mutates_args=())
def _forward_op(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    temperature: Tensor | None,
    scalar_temperature: float,
    softcap: float,
    num_columns: int,
    outputs: str,
    backend: str,
    group: str,
    tile_bytes: int,
    largest_slice: int,
    keep_logits: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    tau = scalar_temperature if temperature is None else temperature
    linear_head.check_unsliced(targets, tau, num_columns, group)
    head = Head(
        hidden, weight, bias, targets, tau, softcap, num_columns, backend_for(backend, hidden, group), tile_bytes,
        largest_slice,
    )  # fmt: skip
    kept = hidden.new_empty((targets.numel() if keep_logits else 0, num_columns))
    with linear_head.no_autocast(hidden):
        fields, row_state = linear_head.forward(
            head, HeadRows(hidden, linear_head.active_rows(targets)), outputs.split(","), kept if keep_logits else None
        )
    return *shaped_fields(fields, targets), row_state, kept


@_forward_op.register_fake
def _(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    _, _, _, num_columns, outputs, _, _, _, _, keep_logits = rest
    row_state = hidden.new_empty((STATE_ROWS, targets.numel()), dtype=torch.float32)
    kept = hidden.new_empty((targets.numel() if keep_logits else 0, num_columns))
    return (*fake_fields(hidden, targets, outputs), row_state, kept)


@torch.library.custom_op("rlif::linear_token_stats_backward", mutates_args=())
def _backward_op(
    grads: Sequence[Tensor | None],
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    temperature: Tensor | None,
    row_state: Tensor,
    needs: Sequence[bool],
    scalar_temperature: float,
    softcap: float,
    num_columns: int,
    backend: str,
    group: str,
    tile_bytes: int,
) -> tuple[Tensor, Tensor, Tensor]:
    return _backward_from(
        grads, hidden, weight, bias, targets, temperature, row_state, None, needs, scalar_temperature, softcap,
        num_columns, backend, group, tile_bytes,
    )  # fmt: skip


@torch.library.custom_op("rlif::linear_token_stats_backward_", mutates_args=("kept",))
def _backward_inplace_op(
    grads: Sequence[Tensor | None],
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    temperature: Tensor | None,
    row_state: Tensor,
    kept: Tensor,
    needs: Sequence[bool],
    scalar_temperature: float,
    softcap: float,
    num_columns: int,
    backend: str,
    group: str,
    tile_bytes: int,
) -> tuple[Tensor, Tensor, Tensor]:
    return _backward_from(
        grads, hidden, weight, bias, targets, temperature, row_state, kept, needs, scalar_temperature, softcap,
        num_columns, backend, group, tile_bytes,
    )  # fmt: skip


def _backward_from(
    grads: Sequence[Tensor | None],
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    temperature: Tensor | None,
    row_state: Tensor,
    kept: Tensor | None,
    needs: Sequence[bool],
    scalar_temperature: float,
    softcap: float,
    num_columns: int,
    backend: str,
    group: str,
    tile_bytes: int,
) -> tuple[Tensor, Tensor, Tensor]:
    tau = scalar_temperature if temperature is None else temperature
    head = Head(
        hidden, weight, bias, targets, tau, softcap, num_columns, backend_for(backend, hidden, group), tile_bytes,
        num_columns,
    )  # fmt: skip
    with linear_head.no_autocast(hidden):
        gradients = linear_head.backward(
            head,
            HeadRows(hidden, linear_head.active_rows(targets)),
            present_gradients(grads),
            row_state,
            (needs[0], needs[1], needs[2]),
            kept,
        )
    return absent_as_empty(gradients, hidden)


def absent_as_empty(gradients: Sequence[Tensor | None], like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """An op's schema has a fixed number of outputs: a gradient that nobody needs is an empty tensor."""
    hidden, weight, bias = (like.new_empty(0) if gradient is None else gradient for gradient in gradients)
    return hidden, weight, bias


def fake_gradients(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, needs: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """What `absent_as_empty` returns, without values."""
    gradients = (
        torch.empty_like(x, memory_format=torch.contiguous_format) if x is not None and need else None
        for x, need in zip((hidden, weight, bias), needs, strict=True)
    )
    return absent_as_empty(list(gradients), hidden)


@_backward_op.register_fake
def _(
    grads: Sequence[Tensor | None], hidden: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return fake_gradients(hidden, weight, bias, needs=rest[3])


@_backward_inplace_op.register_fake
def _(
    grads: Sequence[Tensor | None], hidden: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return fake_gradients(hidden, weight, bias, needs=rest[4])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    hidden, weight, bias, targets, temperature, *options, outputs, backend, group, tile_bytes, _, keep_logits = inputs
    *fields, row_state, kept = output
    ctx.save_for_backward(hidden, weight, bias, targets, temperature, row_state, kept)
    mark_differentiable(ctx, outputs, fields, row_state, kept)
    ctx.options, ctx.keep_logits = (*options, backend, group, tile_bytes), keep_logits


def _autograd_backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    no_grads = (None,) * 11  # of everything but hidden, weight and bias
    field_grads = field_gradients(ctx, grads, "linear_token_stats")
    if all(grad is None for grad in field_grads):
        return None, None, None, *no_grads
    needs = list(ctx.needs_input_grad[:3])
    *saved, kept = ctx.saved_tensors
    if ctx.keep_logits:
        gradients = _backward_inplace_op(field_grads, *saved, kept, needs, *ctx.options)
    else:
        gradients = _backward_op(field_grads, *saved, needs, *ctx.options)
    return *(gradient if need else None for gradient, need in zip(gradients, needs, strict=True)), *no_grads


torch.library.register_autograd("rlif::linear_token_stats", _autograd_backward, setup_context=_setup_context)
