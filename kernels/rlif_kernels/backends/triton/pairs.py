"""The Triton backend of divergences: how its kernel is launched."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlif_kernels.backends.triton import (
    check_size,
    device_guard,
    device_of,
    launch_options,
    plan,
    row_addresses,
    softcap_form,
)
from rlif_kernels.backends.triton.blocks import LOG2E
from rlif_kernels.backends.triton.divergence import pair_kernel
from rlif_kernels.backends.triton.launches import Launch
from rlif_kernels.backends.triton.plan import LANES, LOAD_BYTES
from rlif_kernels.pairs import KINDS, PAIR_OUTPUTS, Pair


def pair_constants(
    launch: Launch,
    dtypes: Sequence[torch.dtype],
    kind: str,
    wide: bool,
    wide_grad: bool,
    softcaps: Sequence[int],
    architecture: str,
    padded: bool = False,
) -> dict[str, Any]:
    """The kernel's compile-time arguments and launch options; dtypes and softcap forms are the student's and the
    teacher's."""
    itemsize = min(dtype.itemsize for dtype in dtypes)
    return {
        "LANES": LANES,
        "K": LOAD_BYTES // itemsize,
        "BLOCK": launch.block_bytes // itemsize,
        "WIDE": wide,
        "WIDE_GRAD": wide_grad,
        "PADDED": padded,
        "SOFTCAP": softcaps[0],
        "TEACHER_SOFTCAP": softcaps[1],
        "KIND": KINDS.index(kind),
        "NVIDIA": architecture.startswith("sm_"),
        "UNROLL": launch.unroll,
        "LOAD": launch.load,
        "SECOND_LOAD": launch.second_load,
        "STORE": launch.store,
        **launch_options(launch),
    }


def divergence(grad_logits: Tensor | None, pair: Pair) -> dict[str, Tensor]:
    """`backends.pairs.PairBackend.divergence`: a program for each pair of rows."""
    logits, teacher_logits, rows, teacher_rows = pair[:4]
    num_rows, num_columns, width = rows.num_rows, rows.num_columns, logits.shape[-1]
    names = [name for name in PAIR_OUTPUTS if name == "value" or name in pair.outputs]
    values = {name: pair.weight.new_empty(num_rows) for name in names}
    if num_rows == 0:
        return values
    check_size(rows)
    base, stride, offsets, wide = row_addresses(logits)
    teacher_base, teacher_stride, teacher_offsets, teacher_wide = row_addresses(teacher_logits)
    grad_base, grad_stride, grad_offsets, wide_grad = None, 0, None, True
    if grad_logits is not None:
        grad_base, grad_stride, grad_offsets, wide_grad = row_addresses(grad_logits)
    dtypes = (logits.dtype, teacher_logits.dtype)
    itemsize = min(dtype.itemsize for dtype in dtypes)
    device = device_of(logits)
    launch = plan.divergence(num_rows, num_columns, itemsize, device)
    softcaps = [softcap_form(each.softcap) for each in (rows, teacher_rows)]
    constants = pair_constants(
        launch, dtypes, pair.kind, wide and teacher_wide, wide_grad, softcaps, device.architecture, num_columns < width
    )
    temperatures, temperature = rows.split_temperature
    teacher_temperatures, teacher_temperature = teacher_rows.split_temperature
    with device_guard(logits):
        pair_kernel[(num_rows,)](
            grad_base, base, teacher_base, offsets, teacher_offsets, grad_offsets, rows.targets, temperatures,
            teacher_temperatures, pair.weight, *(values.get(name) for name in PAIR_OUTPUTS), stride, teacher_stride,
            grad_stride, num_columns, width, LOG2E.value / temperature, LOG2E.value / teacher_temperature, rows.softcap,
            teacher_rows.softcap, pair.beta, **constants,
        )  # fmt: skip
    return values
