"""Checks of the arguments of `divergence` and `linear_divergence`."""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from rlif_kernels.checks import (
    check_number,
    check_per_row,
    check_positive,
    check_temperatures,
    check_tensor,
    checked_temperature,
    row_arguments,
)
from rlif_kernels.pairs import KINDS, PAIR_OUTPUTS
from rlif_kernels.rows import Rows
from rlif_kernels.stats import DEFAULT_OUTPUTS, IGNORE_INDEX

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

# The mixture is made in float32, where 1 - beta must not be 1.
SMALLEST_BETA = 2.0**-24


class PairArguments(NamedTuple):
    """What the ops are told of pairs of rows, checked."""

    rows: Rows
    """The targets are 0, or IGNORE_INDEX in masked rows."""
    teacher_rows: Rows
    kind: str
    """Never "jsd" with a beta of 0 or 1, which is a KL."""
    beta: float
    weight: Tensor
    """(N,) float32, detached; 0 in masked rows."""
    outputs: tuple[str, ...]
    """In the order of PAIR_OUTPUTS."""
    backend: str
    group: str
    largest_slice: int


def check_paired_rows(name: str, other: Tensor, source_name: str, source: Tensor) -> None:
    """Check that the rows of a teacher, or of a reference, are those of what is compared with it.

    Raises:
        ValueError: another shape but for the last dimension, or another device.
    """
    if other.shape[:-1] != source.shape[:-1]:
        raise ValueError(
            f"{name} has shape {tuple(other.shape)}; expected {tuple(source.shape[:-1])} and one more, the rows of "
            f"{source_name}"
        )
    if other.device != source.device:
        raise ValueError(f"{name} is on {other.device}; expected {source.device}, the device of {source_name}")


def pair_arguments(
    sources: tuple[Tensor, Tensor],
    name: str,
    columns: tuple[int, int],
    kind: str,
    beta: float,
    token_weight: Tensor | None,
    temperature: float | Tensor,
    teacher_temperature: float | Tensor | None,
    mask: Tensor | None,
    vocab_size: int | None,
    softcap: float | None,
    teacher_softcap: float | None,
    outputs: tuple[str, ...],
    backend: str | None,
    group: "ProcessGroup | None",
) -> PairArguments:
    """Check what both functions have in common.

    Args:
        sources: the student's and the teacher's logits or hidden states, whose rows are paired.
        name: the student's name; the teacher's begins with "teacher_".
        columns: of each that are there.
    """
    source, teacher = sources
    check_paired_rows(f"teacher_{name}", teacher, name, source)
    if group is not None and columns[0] != columns[1]:
        raise ValueError(f"the teacher's slice has {columns[1]} columns; expected {columns[0]}, those of the student's")
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; expected one of {KINDS}")
    beta = check_number("beta", beta, "a number from 0 to 1")
    if kind == "jsd":
        if not (beta == 0 or beta == 1 or SMALLEST_BETA <= beta <= 1 - SMALLEST_BETA):
            raise ValueError(f"beta is {beta}; expected 0, 1 or a number between that is {SMALLEST_BETA} from both")
        kind = "forward_kl" if beta == 0 else "reverse_kl" if beta == 1 else kind
    if not isinstance(outputs, tuple | list) or not all(name in PAIR_OUTPUTS for name in outputs):
        raise ValueError(f"outputs is {outputs!r}; expected a tuple of names out of {PAIR_OUTPUTS}")

    arguments = row_arguments(
        source, name, min(columns), torch.zeros(source.shape[:-1], dtype=torch.int64, device=source.device),
        temperature, mask, vocab_size, softcap, DEFAULT_OUTPUTS, backend, group,
    )  # fmt: skip
    rows = arguments.rows
    active = rows.targets != IGNORE_INDEX
    if teacher_temperature is None:
        teacher_temperature = rows.temperature
    else:
        teacher_temperature = checked_temperature(teacher_temperature, source, name, backend, "teacher_temperature")
        if group is not None and source.device.type == "cpu":  # on every rank, so that none waits for another
            check_temperatures(teacher_temperature, active, "teacher_temperature")
    teacher_softcap = 0.0 if teacher_softcap is None else check_positive("teacher_softcap", teacher_softcap)
    if token_weight is None:
        weight = active / active.sum().clamp(min=1)
    else:
        check_tensor("token_weight", token_weight, "a torch.Tensor or None")
        check_per_row("token_weight", token_weight, source, name)
        if not token_weight.is_floating_point():
            raise TypeError(f"token_weight has dtype {token_weight.dtype}; expected a floating dtype")
        weight = token_weight.detach().float().where(active, 0)
    return PairArguments(
        rows, Rows(rows.targets, teacher_temperature, teacher_softcap, rows.num_columns), kind,
        beta if kind == "jsd" else 0.5, weight.contiguous().view(-1), tuple(n for n in PAIR_OUTPUTS if n in outputs),
        arguments.backend, arguments.group, arguments.largest_slice,
    )  # fmt: skip
