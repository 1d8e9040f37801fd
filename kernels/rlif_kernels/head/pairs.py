"""Two heads on pairs of rows, a student's and a teacher's, whose logits are computed together, tile by tile."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from rlif_kernels.backends import pairs
from rlif_kernels.head import head
from rlif_kernels.head.gradients import Gradients, HeadGradients
from rlif_kernels.head.head import Head
from rlif_kernels.head.tiles import HiddenRows, loss_tiles, tiles
from rlif_kernels.pairs import PAIR_OUTPUTS, Pair
from rlif_kernels.rows import Rows
from rlif_kernels.transforms import watched

HeadTensors = tuple[Tensor, Tensor, Tensor | None]  # hidden states, weight and bias


class TeacherTensors(NamedTuple):
    """A teacher's hidden states and head, constants; without a weight where the student's head serves both."""

    hidden: Tensor
    weight: Tensor | None
    bias: Tensor | None


class Tile(NamedTuple):
    """What there is of a tile of rows: views of memory that the next tile takes."""

    hidden: Tensor
    """(rows, H), of the student."""
    logits: Tensor
    """(rows, V), of the student."""
    teacher_logits: Tensor
    spare: Tensor
    """(rows, V) of the dtype of the student's logits: the teacher's logits themselves, or memory beside them."""


def as_linear_layers(student: HeadTensors, teacher: HeadTensors) -> tuple[HeadTensors, TeacherTensors]:
    """Cast both as autocast would, and find out whether they have one head in common."""
    (hidden, weight, bias), (teacher_hidden, teacher_weight, teacher_bias) = student, teacher
    shared = _same(weight, teacher_weight) and _same(bias, teacher_bias) and hidden.dtype == teacher_hidden.dtype
    student = head.autocast(hidden, weight, bias)
    if shared:
        return student, TeacherTensors(teacher_hidden.detach().to(student[0].dtype), None, None)
    hidden, weight, bias = head.autocast(teacher_hidden, teacher_weight, teacher_bias)
    return student, TeacherTensors(hidden.detach(), weight.detach(), None if bias is None else bias.detach())


def _same(mine: Tensor | None, other: Tensor | None) -> bool:
    """Whether the teacher's is the student's own memory."""
    if mine is other or mine is None or other is None:
        return mine is other
    if watched(mine) or watched(other):  # whose memory is not to be asked for
        return False
    return (mine.data_ptr(), mine.shape, mine.stride(), mine.dtype) == (
        other.data_ptr(), other.shape, other.stride(), other.dtype,
    )  # fmt: skip


def pair_of_heads(student: Head, teacher: TeacherTensors, rows: Rows, logits_dtype: torch.dtype) -> "PairOfHeads":
    """The two heads of an op; rows and the dtype of the logits are the teacher's."""
    hidden, weight, bias = teacher
    if weight is None:
        return PairOfHeads(student, None, hidden)
    own = replace(student, hidden=hidden, weight=weight, bias=bias, rows=rows, logits_dtype=logits_dtype)
    return PairOfHeads(student, own, hidden)


class PairOfHeads:
    """The two heads, and their logits of a tile of rows."""

    def __init__(self, student: Head, teacher: Head | None, teacher_hidden: Tensor) -> None:
        """`teacher` is None where the student's head serves both."""
        self.student, self.teacher, self.teacher_hidden = student, teacher, teacher_hidden
        own = (teacher or student).logits_dtype
        self.needs_spare = own != student.logits_dtype

    def row_bytes(self, taken: HiddenRows, spare: bool = False) -> int:
        """Bytes that a row of a tile takes, of both, and of `Tile.spare` where that is needed and is not theirs."""
        beside = HiddenRows(self.teacher_hidden, taken.rows)
        size = self.student.row_bytes(taken) + (self.teacher or self.student).row_bytes(beside)
        if spare and self.needs_spare:
            size += self.student.largest_slice * self.student.logits_dtype.itemsize
        return size


class PairTiles:
    """The logits of both heads in memory that all tiles share."""

    def __init__(self, heads: PairOfHeads, taken: HiddenRows, num_rows: int, spare: bool = False) -> None:
        self.heads, self.taken = heads, taken
        self.teacher_taken = HiddenRows(heads.teacher_hidden, taken.rows)
        student, teacher = heads.student, heads.teacher
        self.num_columns = student.rows.num_columns
        num_elements = num_rows * self.num_columns
        self.buffer = student.new_buffer(num_elements if teacher else 2 * num_elements)
        self.teacher_buffer = teacher.new_buffer(num_elements) if teacher else None
        self.spare_buffer = student.new_buffer(num_elements) if spare and heads.needs_spare else None

    def take(self, tile: slice) -> Tile:
        """Compute the logits of the rows of a tile."""
        hidden, teacher_hidden = self.taken.take(tile), self.teacher_taken.take(tile)
        columns, student, teacher = slice(self.num_columns), self.heads.student, self.heads.teacher
        if teacher is None or self.teacher_buffer is None:
            both = student.logits(torch.cat([hidden, teacher_hidden]), columns, self.buffer)
            logits, teacher_logits = both[: len(hidden)], both[len(hidden) :]
        else:
            logits = student.logits(hidden, columns, self.buffer)
            teacher_logits = teacher.logits(teacher_hidden, columns, self.teacher_buffer)
        spare = teacher_logits
        if self.spare_buffer is not None:
            spare = self.spare_buffer[: logits.numel()].view(logits.shape)
        return Tile(hidden, logits, teacher_logits, spare)


def divergences_and_gradients(
    heads: PairOfHeads, taken: HiddenRows, pair: Pair, backend: str, group: str, needs: Sequence[bool]
) -> tuple[dict[str, Tensor], Gradients]:
    """Tile by tile: both logits, divergence, gradient of the student's in their place, gradients of its head.

    Args:
        pair: all rows; the logits are not read.

    Returns:
        PAIR_OUTPUTS of all rows, (N,), and the three gradients, None where `needs` leaves them out.
    """
    student = heads.student
    num_learning = taken.count if any(needs) else 0
    per_tile, _ = loss_tiles(
        taken.count, num_learning, heads.row_bytes(taken), student.tile_bytes, _bytes_of_sum(student, needs), 0
    )
    sizes = [min(per_tile, taken.count - start) for start in range(0, taken.count, per_tile)]
    parts = HeadGradients(student, taken, needs, num_learning)
    values = {name: pair.weight.new_zeros(pair.rows.num_rows) for name in PAIR_OUTPUTS}
    rows = pair_of_rows(pair, taken.index)
    memory = PairTiles(heads, taken, max(sizes, default=0))
    for tile in tiles(sizes):
        each = memory.take(tile)
        own = pair_of_rows(rows, tile)._replace(logits=each.logits, teacher_logits=each.teacher_logits)
        of_tile = pairs.divergence(backend, group, each.logits if num_learning else None, own)
        for name, value in of_tile.items():
            values[name][taken.numbers(tile)] = value
        if num_learning:
            parts.add_rows(tile, each.logits, each.hidden)
    return values, parts.finish()


def pair_of_rows(pair: Pair, index: slice | Tensor) -> Pair:
    """Return what there is to say of some rows, but for their logits."""
    return pair._replace(
        rows=pair.rows.take(index), teacher_rows=pair.teacher_rows.take(index), weight=pair.weight[index]
    )


def _bytes_of_sum(student: Head, needs: Sequence[bool]) -> int:
    """Of the float32 sum that several tiles need for the gradient of a half-precision weight."""
    if not needs[1] or student.weight.dtype == torch.float32:
        return 0
    return 4 * student.largest_slice * student.weight.shape[1]
