"""`linear_token_stats`: `token_stats` of a head's logits, tile by tile, so that they never exist as a whole.

`head` has the tiles. The forward takes one matrix product. The backward takes three, the first to compute the logits
again, or two if the logits were kept.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor

from rlif_kernels.checks import check_head, check_logits_dtype, check_tile_bytes, row_arguments
from rlif_kernels.dtensors import takes_dtensors
from rlif_kernels.functional import OP_FIELDS
from rlif_kernels.head import gradients, head
from rlif_kernels.head.tangents import head_tangents
from rlif_kernels.head.tiles import DEFAULT_TILE_BYTES, HiddenRows, active_rows
from rlif_kernels.op_names import op_name
from rlif_kernels.op_values import (
    absent_as_empty,
    fake_field_outputs,
    fake_head_gradients,
    field_gradients,
    field_outputs,
    mark_differentiable,
    op_arguments,
    op_rows,
    ordered_tangents,
    present_gradients,
    requested,
    token_stats_of,
    top_columns_output,
)
from rlif_kernels.stats import DEFAULT_OUTPUTS, TokenStats
from rlif_kernels.transforms import apply_uncompiled, first_derivative, keeps_graph, refuse_vmap, transformed

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@takes_dtensors
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
    top_logprobs: int | None = None,
    keep_logits: bool | None = None,
    tile_bytes: int = DEFAULT_TILE_BYTES,
    logits_dtype: torch.dtype | None = None,
    group: "ProcessGroup | None" = None,
    backend: str | None = None,
) -> TokenStats:
    """`token_stats` of ``hidden @ weight.T + bias``, differentiable in all three, with one tile of logits in memory.

    Args:
        hidden: (..., H) float32, bfloat16 or float16, any strides.
        weight: (V, H), of hidden's dtype. Under autocast both are cast as a linear layer would cast them.
        targets: (...) integer ids of the chosen tokens. A row whose target is -100 is masked. Or (..., K), as
            `token_stats` has it.
        bias: (V,), or None.
        mask: (...) bool. False rows take part in no product; their outputs and gradients are 0.
        vocab_size: the number of real rows of the weight when the head is padded; the rest takes part in nothing.
        keep_logits: keep all logits for the backward, N·V elements of the logits' dtype, which saves it a product and
            destroys them. None keeps them if `tile_bytes` holds them all. A backward with retain_graph=True leaves them
            alone, and computes its own in tiles.
        tile_bytes: bytes of logits to have at a time. `head.tiles` says how a tile's shape follows from it.
        logits_dtype: None: hidden's dtype, so that bfloat16 logits are rounded as a linear layer rounds them, by up to
            2^-8 of their size (0.06 nats at a logit of 16). torch.float32: products accumulate in float32 and stay
            there, the bias is added there, and statistics are those of the exact logits to float32's rounding. A
            logit then takes 4 bytes: a tile of `tile_bytes` holds half the rows. In the backward the logits' gradient
            is rounded to hidden's dtype in the tile's own memory, 6 bytes more read and written for each logit, so
            that its products are those of half precision. `head.products` says what the first product costs.
        group: a torch.distributed group over which the rows of the weight are sharded, as `token_stats` has it for
            columns; `hidden` is the same on every rank, and its gradient is summed over the ranks. A weight that is a
            DTensor sharded over its rows says so itself.

    The other arguments, and the results, are those of `token_stats`. A gradient that nobody needs (a frozen head,
    frozen hidden states) costs no product.

    Raises:
        ValueError, TypeError, IndexError: as `token_stats` does; shapes, dtypes or devices of hidden, weight and bias
            that do not match.
        RuntimeError: on a second derivative, and under torch.func.vmap.
    """
    check_head(hidden, weight, bias)
    hidden, weight, bias = head.autocast(hidden, weight, bias)
    check_tile_bytes(tile_bytes)
    logits_dtype = check_logits_dtype(logits_dtype, hidden.dtype)
    if keep_logits is not None and not isinstance(keep_logits, bool):
        raise TypeError(f"keep_logits is {keep_logits!r}; expected True, False or None")
    arguments = row_arguments(
        hidden, "hidden", len(weight), targets, temperature, mask, vocab_size, softcap, outputs, backend, group,
        several_targets=True, top_logprobs=top_logprobs,
    )  # fmt: skip
    if keep_logits is None:
        keep_logits = arguments.rows.num_rows * arguments.largest_slice * logits_dtype.itemsize <= tile_bytes
    learns = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (hidden, weight, bias))
    op_inputs = (hidden, weight, bias, *op_arguments(arguments), tile_bytes, logits_dtype, arguments.largest_slice)
    if transformed():
        values = apply_uncompiled(_Transformed, *op_inputs, False, arguments.rows.top)
    else:
        values = _forward_op(*op_inputs, keep_logits and learns, arguments.rows.top)
    return token_stats_of(values, OP_FIELDS, arguments)


# ---------------------------------------------------------------- library ops
#
# The outputs of the forward op are the fields in the order of OP_FIELDS, then the row state, the k largest columns as
# targets, and the logits if kept: as many rows as there are targets. The rows that are not masked come first.


@torch.library.custom_op(op_name("linear_token_stats"), mutates_args=())
def _forward_op(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    temperature: Tensor | None,
    varying: Tensor | None,
    scalar_temperature: float,
    softcap: float,
    num_columns: int,
    outputs: str,
    backend: str,
    group: str,
    tile_bytes: int,
    logits_dtype: torch.dtype,
    largest_slice: int,
    keep_logits: bool,
    top: int,
) -> tuple[
    Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor
]:  # fmt: skip
    numbers = (scalar_temperature, softcap, num_columns)
    rows = op_rows(targets, temperature, varying, *numbers, num_dims=hidden.ndim - 1, top=top)
    call = head.head_of(hidden, weight, bias, rows, backend, group, tile_bytes, largest_slice, logits_dtype)
    head.check_before_tiles(call)
    kept = hidden.new_empty((hidden.shape[:-1].numel() if keep_logits else 0, num_columns), dtype=logits_dtype)
    with head.no_autocast(hidden):
        taken = HiddenRows(hidden, active_rows(rows.targets))
        fields, row_state = head.forward(call, taken, requested(outputs), kept if keep_logits else None)
    return *field_outputs(fields, hidden), row_state, top_columns_output(fields, hidden), kept


@_forward_op.register_fake
def _(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    _, _, _, _, num_columns, outputs, _, _, _, logits_dtype, _, keep_logits, top = rest
    kept = hidden.new_empty((hidden.shape[:-1].numel() if keep_logits else 0, num_columns), dtype=logits_dtype)
    return (*fake_field_outputs(hidden, targets, outputs, top), kept)


@torch.library.custom_op(op_name("linear_token_stats_backward"), mutates_args=())
def _backward_op(
    grads: Sequence[Tensor | None],
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    temperature: Tensor | None,
    varying: Tensor | None,
    row_state: Tensor,
    needs: Sequence[bool],
    scalar_temperature: float,
    softcap: float,
    num_columns: int,
    backend: str,
    group: str,
    tile_bytes: int,
    logits_dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    rows = op_rows(targets, temperature, varying, scalar_temperature, softcap, num_columns, num_dims=hidden.ndim - 1)
    call = head.head_of(hidden, weight, bias, rows, backend, group, tile_bytes, num_columns, logits_dtype)
    return _gradients(call, grads, row_state, needs, kept=None)


@torch.library.custom_op(op_name("linear_token_stats_backward_"), mutates_args=("kept",))
def _backward_inplace_op(
    grads: Sequence[Tensor | None],
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    temperature: Tensor | None,
    varying: Tensor | None,
    row_state: Tensor,
    kept: Tensor,
    needs: Sequence[bool],
    scalar_temperature: float,
    softcap: float,
    num_columns: int,
    backend: str,
    group: str,
    tile_bytes: int,
    logits_dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    rows = op_rows(targets, temperature, varying, scalar_temperature, softcap, num_columns, num_dims=hidden.ndim - 1)
    call = head.head_of(hidden, weight, bias, rows, backend, group, tile_bytes, num_columns, logits_dtype)
    return _gradients(call, grads, row_state, needs, kept=kept)


def _gradients(
    call: head.Head, grads: Sequence[Tensor | None], row_state: Tensor, needs: Sequence[bool], kept: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    with head.no_autocast(call.hidden):
        taken = HiddenRows(call.hidden, active_rows(call.rows.targets))
        parts = gradients.backward(call, taken, present_gradients(grads, call.hidden), row_state, needs, kept)
    return absent_as_empty(parts, call.hidden)


@_backward_op.register_fake
def _(
    grads: Sequence[Tensor | None], hidden: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return fake_head_gradients(hidden, weight, bias, needs=rest[4])


@_backward_inplace_op.register_fake
def _(
    grads: Sequence[Tensor | None], hidden: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return fake_head_gradients(hidden, weight, bias, needs=rest[5])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, scalar_temperature, softcap, num_columns, outputs, backend, group, tile_bytes, dtype, _, keep, _ = inputs
    *fields, row_state, top_columns, kept = output
    ctx.save_for_backward(*tensors, row_state, kept, top_columns)
    mark_differentiable(ctx, outputs, fields, row_state, top_columns, kept)
    options = (scalar_temperature, softcap, num_columns)
    ctx.options, ctx.keep_logits = (*options, backend, group, tile_bytes, dtype), keep


def _autograd_backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    no_grads = (None,) * 14  # of everything but hidden, weight and bias
    *saved, kept, top_columns = ctx.saved_tensors
    field_grads, saved[3] = field_gradients(ctx, OP_FIELDS, grads, "linear_token_stats", saved[3], top_columns)
    if all(grad is None for grad in field_grads):
        return None, None, None, *no_grads
    needs = list(ctx.needs_input_grad[:3])
    if ctx.keep_logits and not (keeps_graph() or transformed()):
        parts = _backward_inplace_op(field_grads, *saved, kept, needs, *ctx.options)
    else:

        def gradients(*tensors: Tensor) -> tuple[Tensor, ...]:
            return _backward_op(tensors[: len(field_grads)], *tensors[len(field_grads) :], needs, *ctx.options)

        parts = first_derivative("linear_token_stats", gradients, saved[:3], *field_grads, *saved)
    return *(part if need else None for part, need in zip(parts, needs, strict=True)), *no_grads


torch.library.register_autograd(op_name("linear_token_stats"), _autograd_backward, setup_context=_setup_context)


class _Transformed(torch.autograd.Function):
    """The op under torch.func and forward-mode AD, which library ops have no formulas for."""

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        return _forward_op(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _setup_context(ctx, inputs, output)
        ctx.in_transform = True
        ctx.save_for_forward(*inputs[:6], output[-2])
        ctx.arguments = inputs[6:-2]

    backward = staticmethod(_autograd_backward)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        values = first_derivative(
            "linear_token_stats", _tangents, tensors[:3], *tensors, *tangents[:3], ctx.arguments
        )  # fmt: skip
        return *values, None, None, None

    @staticmethod
    def vmap(*_: Any) -> NoReturn:
        refuse_vmap("linear_token_stats")


def _tangents(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    temperature: Tensor | None,
    varying: Tensor | None,
    top_columns: Tensor,
    d_hidden: Tensor | None,
    d_weight: Tensor | None,
    d_bias: Tensor | None,
    arguments: tuple[Any, ...],
) -> tuple[Tensor | None, ...]:
    """The tangents of the fields."""
    *options, outputs, backend, group, tile_bytes, logits_dtype, largest_slice = arguments
    rows = op_rows(targets, temperature, varying, *options, num_dims=hidden.ndim - 1)
    call = head.head_of(hidden, weight, bias, rows, backend, group, tile_bytes, largest_slice, logits_dtype)
    with head.no_autocast(hidden):
        taken = HiddenRows(hidden, active_rows(rows.targets))
        shape = (rows.num_rows, top_columns.shape[-1])
        columns = top_columns.view(shape) if "top_logprobs" in requested(outputs) else None
        values = head_tangents(call, taken, requested(outputs), d_hidden, d_weight, d_bias, columns)
    return ordered_tangents(values, hidden)
