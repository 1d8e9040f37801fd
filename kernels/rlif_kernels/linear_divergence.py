"""`linear_divergence`: `divergence` of two heads' logits, tile by tile, so that they never exist as a whole.

A tile of rows has its student's and its teacher's logits; the former are overwritten with their gradient and multiplied
into the gradients of the hidden states and of the weight before the next tile takes the memory. That is four matrix
products, and two without a gradient. `head.tiles` says what several tiles take for the gradient of the weight.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlif_kernels.backends import local_backend, pairs, vocab_parallel
from rlif_kernels.checks import check_head, check_logits_dtype, check_tile_bytes
from rlif_kernels.divergence import divergence_of
from rlif_kernels.head import gradients, head
from rlif_kernels.head.head import Head
from rlif_kernels.head.tiles import DEFAULT_TILE_BYTES, HiddenRows, active_rows, loss_tiles, tiles
from rlif_kernels.loss_functions import head_loss_functions
from rlif_kernels.op_values import (
    absent_as_empty,
    fake_head_gradients,
    fake_pair_outputs,
    op_pair,
    op_pair_arguments,
    pair_outputs,
)
from rlif_kernels.pair_checks import pair_arguments
from rlif_kernels.pairs import PAIR_OUTPUTS, Divergence, Pair, check_pair
from rlif_kernels.transforms import (
    apply_uncompiled,
    transformed,
    watched,
)

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


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
    shared = _same(weight, teacher_weight) and _same(bias, teacher_bias) and hidden.dtype == teacher_hidden.dtype
    hidden, weight, bias = head.autocast(hidden, weight, bias)
    teacher: tuple[Tensor | None, ...] = (
        teacher_hidden.detach().to(hidden.dtype) if shared else teacher_hidden,
        None,
        None,
    )
    if not shared:
        teacher = head.autocast(teacher_hidden, teacher_weight, teacher_bias)
        teacher = tuple(None if x is None else x.detach() for x in teacher)
    check_tile_bytes(tile_bytes)
    dtypes = [check_logits_dtype(logits_dtype, x.dtype) for x in (hidden, teacher[0]) if x is not None]
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


def _same(mine: Tensor | None, other: Tensor | None) -> bool:
    """Whether the teacher's is the student's own memory."""
    if mine is other or mine is None or other is None:
        return mine is other
    if watched(mine) or watched(other):  # whose memory is not to be asked for
        return False
    return (mine.data_ptr(), mine.shape, mine.stride(), mine.dtype) == (
        other.data_ptr(), other.shape, other.stride(), other.dtype,
    )  # fmt: skip


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


@torch.library.custom_op("rlif::linear_divergence", mutates_args=())
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
    heads = _Heads(
        head.head_of(hidden, weight, bias, pair.rows, backend, group, tile_bytes, largest_slice, logits_dtype),
        None
        if teacher_weight is None
        else head.head_of(
            teacher_hidden, teacher_weight, teacher_bias, pair.teacher_rows, backend, group, tile_bytes, largest_slice,
            teacher_dtype,
        ),
        active_rows(targets),
        teacher_hidden,
    )  # fmt: skip
    with head.no_autocast(hidden):
        values, parts = _values_and_gradients(heads, pair, backend, group, needs)
    return (*pair_outputs(values, pair), *absent_as_empty(parts, hidden))


@_forward_op.register_fake
def _(hidden: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> tuple[Tensor, ...]:
    targets, outputs, needs = rest[3], rest[10], rest[-1]
    return (*fake_pair_outputs(hidden, targets, outputs), *fake_head_gradients(hidden, weight, bias, needs))


_Function, _Transformed = head_loss_functions("linear_divergence", _forward_op, _tangent)


class _Heads:
    """The two heads, and their logits of a tile of rows."""

    def __init__(self, student: Head, teacher: Head | None, rows: Tensor | None, teacher_hidden: Tensor) -> None:
        """`teacher` is None where the student's head serves both; `rows` are the numbers of the rows to take."""
        self.student, self.teacher = student, teacher
        self.taken, self.teacher_taken = HiddenRows(student.hidden, rows), HiddenRows(teacher_hidden, rows)

    @property
    def row_bytes(self) -> int:
        """Bytes that a row of a tile takes, of both."""
        return self.student.row_bytes(self.taken) + (self.teacher or self.student).row_bytes(self.teacher_taken)

    def new_buffers(self, num_elements: int) -> tuple[Tensor, Tensor | None]:
        """Memory for a tile of either, or one for both."""
        if self.teacher is None:
            return self.student.new_buffer(2 * num_elements), None
        return self.student.new_buffer(num_elements), self.teacher.new_buffer(num_elements)

    def logits(self, tile: slice, buffers: tuple[Tensor, Tensor | None]) -> tuple[Tensor, Tensor, Tensor]:
        """The student's hidden states, its logits and the teacher's."""
        hidden, teacher_hidden = self.taken.take(tile), self.teacher_taken.take(tile)
        columns, (buffer, teacher_buffer) = slice(self.student.rows.num_columns), buffers
        if self.teacher is None or teacher_buffer is None:
            both = self.student.logits(torch.cat([hidden, teacher_hidden]), columns, buffer)
            return hidden, both[: len(hidden)], both[len(hidden) :]
        return (
            hidden,
            self.student.logits(hidden, columns, buffer),
            self.teacher.logits(teacher_hidden, columns, teacher_buffer),
        )


def _values_and_gradients(
    heads: _Heads, pair: Pair, backend: str, group: str, needs: Sequence[bool]
) -> tuple[dict[str, Tensor], tuple[Tensor | None, Tensor | None, Tensor | None]]:
    """Tile by tile: both logits, divergence, gradient of the student's in their place, gradients of its head."""
    taken, student, num_columns = heads.taken, heads.student, pair.rows.num_columns
    num_learning = taken.count if any(needs) else 0
    per_tile, _ = loss_tiles(
        taken.count, num_learning, heads.row_bytes, student.tile_bytes, _bytes_of_sum(student, needs), 0
    )
    sizes = [min(per_tile, taken.count - start) for start in range(0, taken.count, per_tile)]
    parts = gradients.HeadGradients(student, taken, needs, num_learning)
    values = {name: pair.weight.new_zeros(pair.rows.num_rows) for name in PAIR_OUTPUTS}
    rows, teacher_rows, weight = (
        pair.rows.take(taken.index), pair.teacher_rows.take(taken.index), pair.weight[taken.index]
    )  # fmt: skip
    buffers = heads.new_buffers(max(sizes, default=0) * num_columns)
    for tile in tiles(sizes):
        hidden, logits, teacher_logits = heads.logits(tile, buffers)
        own = Pair(
            logits, teacher_logits, rows.take(tile), teacher_rows.take(tile), pair.kind, pair.beta, weight[tile],
            pair.outputs,
        )  # fmt: skip
        of_tile = pairs.divergence(backend, group, logits if num_learning else None, own)
        for name, value in of_tile.items():
            values[name][taken.numbers(tile)] = value
        if num_learning:
            parts.add_rows(tile, logits, hidden)
    return values, parts.finish()


def _bytes_of_sum(student: Head, needs: Sequence[bool]) -> int:
    """Of the float32 sum that several tiles need for the gradient of a half-precision weight."""
    if not needs[1] or student.weight.dtype == torch.float32:
        return 0
    return 4 * student.largest_slice * student.weight.shape[1]
