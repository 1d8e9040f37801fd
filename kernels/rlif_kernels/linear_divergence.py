"""`linear_divergence`: `divergence` of two heads' logits, tile by tile, so that they never exist as a whole.

A tile of rows has its student's and its teacher's logits; the former are overwritten with their gradient and multiplied
into the gradients of the hidden states and of the weight before the next tile takes the memory. That is four matrix
products, and two without a gradient. `head.tiles` says what several tiles take for the gradient of the weight.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlif_kernels.backends import local_backend, vocab_parallel
from rlif_kernels.checks import check_head, check_logits_dtype, check_tile_bytes
from rlif_kernels.divergence import divergence_of
from rlif_kernels.dtensors import takes_dtensors
from rlif_kernels.head import head
from rlif_kernels.head.pairs import TeacherTensors, as_linear_layers, divergences_and_gradients, pair_of_heads
from rlif_kernels.head.tiles import DEFAULT_TILE_BYTES, HiddenRows, active_rows
from rlif_kernels.loss_functions import head_loss_functions
from rlif_kernels.op_names import op_name
from rlif_kernels.op_values import (
    absent_as_empty,
    fake_head_gradients,
    fake_pair_outputs,
    op_pair,
    op_pair_arguments,
    pair_outputs,
)
from rlif_kernels.pair_checks import pair_arguments
from rlif_kernels.pairs import Divergence, check_pair
from rlif_kernels.transforms import apply_uncompiled, transformed

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@takes_dtensors
def linear_divergence(
    hidden: Tensor,
    weight: Tensor,
    teacher_hidden: Tensor,
    teacher_weight: Tensor,
    *,
    kind: str,
    beta: float = 0.5,
    bias: Tensor | None = None,
    teacher_bias: Tensor | None = None,
    token_weight: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    teacher_temperature: float | Tensor | None = None,
    mask: Tensor | None = None,
    vocab_size: int | None = None,
    softcap: float | None = None,
    teacher_softcap: float | None = None,
    outputs: tuple[str, ...] = ("value",),
    tile_bytes: int = DEFAULT_TILE_BYTES,
    logits_dtype: torch.dtype | None = None,
    group: "ProcessGroup | None" = None,
    backend: str | None = None,
) -> Divergence:
    """`divergence` of ``hidden @ weight.T + bias`` and of the same of the teacher, with one tile of both in memory.

    Args:
        hidden, weight, bias: of the student, (..., H), (V, H) and (V,), as `linear_token_stats` takes them; the
            gradients of all three are computed with the loss.
        teacher_hidden, teacher_weight, teacher_bias: of the teacher, (..., H'), (V', H') and (V',), with sizes and a
            dtype of their own; constants. Where teacher_weight is the student's weight itself, and the bias too (a
            model that teaches itself, an adapter that is switched off), both sides are one product, that reads it once.
        tile_bytes: bytes of logits to have at a time, of both sides together. A half-precision weight whose gradient
            several tiles add to has that gradient in float32 beside them, as in `linear_grpo_loss`.
        logits_dtype: None: of each side the hidden states' dtype; torch.float32: as in `linear_token_stats`.
        group: a torch.distributed group over which the rows of both weights are sharded, alike.

    The other arguments, and the result, are those of `divergence`. A gradient that nobody needs costs no product.

    Raises:
        ValueError, TypeError: as `divergence` and `linear_token_stats` do.
        RuntimeError: on a second derivative, and under torch.func.vmap.
    """
    check_head(hidden, weight, bias)
    check_head(teacher_hidden, teacher_weight, teacher_bias, "teacher_")
    (hidden, weight, bias), teacher = as_linear_layers(
        (hidden, weight, bias), (teacher_hidden, teacher_weight, teacher_bias)
    )
    check_tile_bytes(tile_bytes)
    dtypes = [check_logits_dtype(logits_dtype, x.dtype) for x in (hidden, teacher.hidden)]
    arguments = pair_arguments(
        (hidden, teacher_hidden), "hidden", (len(weight), len(teacher_weight)), kind, beta, token_weight, temperature,
        teacher_temperature, mask, vocab_size, softcap, teacher_softcap, outputs, backend, group,
    )  # fmt: skip
    inputs = (
        hidden, weight, bias, (*teacher, *op_pair_arguments(arguments), tile_bytes, *dtypes, arguments.largest_slice),
        torch.is_grad_enabled(),
    )  # fmt: skip
    values = apply_uncompiled(_Transformed, *inputs)[:-3] if transformed() else _Function.apply(*inputs)
    return divergence_of(values, outputs)


def _tangent(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    d_hidden: Tensor | None,
    d_weight: Tensor | None,
    d_bias: Tensor | None,
    arguments: tuple[Any, ...],
) -> Tensor:
    """The tangent of the loss: its gradients times the tangents of hidden states, weight and bias."""
    tangents = (d_hidden, d_weight, d_bias)
    *_, of_hidden, of_weight, of_bias = _forward_op(
        hidden, weight, bias, *arguments, [tangent is not None for tangent in tangents]
    )
    changes = [
        torch.zeros((), dtype=torch.float64, device=hidden.device) if tangent is None
        else (gradient.double() * tangent).sum()
        for gradient, tangent in zip((of_hidden, of_weight, of_bias), tangents, strict=True)
    ]  # fmt: skip
    *_, backend, group, _, _, _, _ = arguments
    ranks = vocab_parallel(local_backend(backend, hidden), group)
    of_head = changes[1] + changes[2]
    if ranks:  # the gradient of the hidden states is that of all ranks already
        ranks.sum_over_slices(of_head)
    return (changes[0] + of_head).float()


@torch.library.custom_op(op_name("linear_divergence"), mutates_args=())
def _forward_op(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    teacher_hidden: Tensor,
    teacher_weight: Tensor | None,
    teacher_bias: Tensor | None,
    targets: Tensor,
    token_weight: Tensor,
    temperatures: Sequence[Tensor | None],
    varying: Tensor | None,
    numbers: Sequence[float],
    kind: str,
    num_columns: int,
    outputs: str,
    backend: str,
    group: str,
    tile_bytes: int,
    logits_dtype: torch.dtype,
    teacher_dtype: torch.dtype,
    largest_slice: int,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    pair = op_pair(
        hidden, teacher_hidden, targets, token_weight, temperatures, varying, numbers, kind, num_columns, outputs
    )
    check_pair(pair)  # while positions are still those of the caller
    student = head.head_of(hidden, weight, bias, pair.rows, backend, group, tile_bytes, largest_slice, logits_dtype)
    teacher = TeacherTensors(teacher_hidden, teacher_weight, teacher_bias)
    heads = pair_of_heads(student, teacher, pair.teacher_rows, teacher_dtype)
    with head.no_autocast(hidden):
        taken = HiddenRows(hidden, active_rows(targets))
        values, parts = divergences_and_gradients(heads, taken, pair, backend, group, needs)
    return (*pair_outputs(values, pair), *absent_as_empty(parts, hidden))


@_forward_op.register_fake
def _(hidden: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> tuple[Tensor, ...]:
    targets, outputs, needs = rest[3], rest[10], rest[-1]
    return (*fake_pair_outputs(hidden, targets, outputs), *fake_head_gradients(hidden, weight, bias, needs))


_Function, _Transformed = head_loss_functions("linear_divergence", _forward_op, _tangent)
