"""The C backend, on the CPU: `kernels.c`, on as many threads as torch has.

A call comes back when all of its threads are done, and an interrupt (Ctrl-C) is raised after that: nothing writes to
tensors that the unwinding has freed. A call takes milliseconds, seconds for gigabytes; ctypes releases the
interpreter's lock for that time.
"""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from rlif_kernels.backends.c.build import library
from rlif_kernels.backends.torch import distances as distances  # the two leave the same row state
from rlif_kernels.backends.torch import row_maximum as row_maximum
from rlif_kernels.checks import check_values
from rlif_kernels.functional import STATISTICS
from rlif_kernels.loss_options import LossOptions
from rlif_kernels.loss_terms import KERNEL_ROWS, LossRows, TokenTerms
from rlif_kernels.rows import Rows, row_coefficients, row_offsets, zero_results

# Below this many elements more threads cost more than they save: about 40 microseconds of work.
MIN_ELEMENTS_FOR_THREADS = 1 << 16

DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # by their numbers in vectors.h
NUMBERS = ("delta", "beta", "entropy_coef", "self_certainty_coef", "kl_ratio")  # of `LossOptions`, as they are


class Call(ctypes.Structure):
    """`Call` of kernels.c, field by field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("logits", "offsets", "targets", "temperatures")),
        *((name, ctypes.c_double) for name in ("temperature", "softcap")),
        *((name, ctypes.c_int64) for name in ("columns", "rows", "top")),
        *((name, ctypes.c_int32) for name in ("dtype", "threads")),
        *((name, ctypes.c_void_p) for name in (*STATISTICS, "rank_above", "state", "grad", "grad_offsets")),
        *((f"c_{name}", ctypes.c_void_p) for name in ("p", "plogp", "pp", "uu", "1", "y", "rest")),
        *((name, ctypes.c_void_p) for name in (*KERNEL_ROWS, "loss", "kl", "clipped")),
        *((name, ctypes.c_double) for name in ("low", "high", *NUMBERS)),
        *((name, ctypes.c_void_p) for name in ("uniform", "drawn")),
    )


def serves(logits: Tensor) -> bool:
    """Whether this backend can take these logits, on this machine."""
    return logits.device.type == "cpu" and logits.dtype in DTYPES and library() is not None


def forward(logits: Tensor, rows: Rows, outputs: Sequence[str]) -> tuple[dict[str, Tensor], Tensor]:
    """`backends.Backend.forward`."""
    check_values(rows)
    fields, state = zero_results(logits, rows, outputs)
    tensors = fields | {"state": state}
    if rows.rank_above is not None:
        tensors["rank_above"] = rows.rank_above
    _run("rlif_forward", logits, rows, tensors)
    return fields, state


def sample(
    logits: Tensor, uniform: Tensor, rows: Rows, outputs: Sequence[str]
) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """Draw a token of each row: (N,) int64, -1 where a row is no distribution; the requested fields, but for the rank
    of a target that is not known before, and the row state."""
    drawn = torch.zeros(uniform.numel(), dtype=torch.int64)
    fields, state = zero_results(logits, rows, outputs)
    tensors = fields | {"state": state, "uniform": uniform, "drawn": drawn}
    _run("rlif_sample", logits, rows._replace(targets=drawn), tensors)
    return drawn, fields, state


def backward(grad_logits: Tensor, grads: dict[str, Tensor], logits: Tensor, rows: Rows, row_state: Tensor) -> None:
    """`backends.Backend.backward`."""
    expect_gradient(grad_logits, logits, rows.num_columns)
    coefficients = {f"c_{name}": value for name, value in row_coefficients(grads, row_state, rows).items()}
    tensors = coefficients | {"grad": grad_logits, "grad_offsets": row_offsets(grad_logits), "state": row_state}
    _run("rlif_backward", logits, rows, tensors)


def grpo(
    grad_logits: Tensor,
    logits: Tensor,
    rows: Rows,
    outputs: Sequence[str],
    loss_rows: LossRows,
    options: LossOptions,
) -> tuple[dict[str, Tensor], TokenTerms]:
    """`backends.FusedLoss`."""
    check_values(rows)
    expect_gradient(grad_logits, logits, rows.num_columns)
    results, state = zero_results(logits, rows, outputs)
    results |= {name: state.new_zeros(rows.num_rows) for name in ("loss", "kl")}
    results["clipped"] = state.new_zeros(rows.num_rows, dtype=torch.bool)
    given = {name: getattr(loss_rows, name) for name in KERNEL_ROWS if getattr(loss_rows, name) is not None}
    tensors = {"grad": grad_logits, "grad_offsets": row_offsets(grad_logits), "state": state, **results, **given}
    numbers = {"low": 1 - options.epsilon_low, "high": 1 + options.epsilon_high}
    numbers |= {name: getattr(options, name) for name in NUMBERS}
    _run("rlif_grpo", logits, rows, tensors, numbers)
    kl = None if loss_rows.ref_logprob is None else results["kl"]
    return {name: results[name] for name in outputs}, TokenTerms(results["loss"], kl, results["clipped"], {})


def expect_gradient(grad_logits: Tensor, logits: Tensor, num_columns: int) -> None:
    kernels = library()
    assert kernels is not None
    if grad_logits.data_ptr() != logits.data_ptr():
        kernels.rlif_expect_writes(ctypes.c_void_p(grad_logits.data_ptr()), ctypes.c_int64(grad_logits.nbytes))
    grad_logits[..., num_columns:] = 0


def _run(
    function: str, logits: Tensor, rows: Rows, tensors: dict[str, Tensor], numbers: dict[str, float] | None = None
) -> None:
    call, _kept = call_of(logits, rows, tensors, numbers)
    if getattr(library(), function)(ctypes.byref(call)):
        raise no_memory(rows.num_columns)


def call_of(
    logits: Tensor, rows: Rows, tensors: dict[str, Tensor], numbers: dict[str, float] | None = None
) -> tuple[Call, dict[str, Tensor]]:
    """What the library is told, by its names, and the tensors that must live as long."""
    num_rows, num_columns = rows.num_rows, rows.num_columns
    temperatures, temperature = rows.split_temperature
    call = Call(
        columns=num_columns,
        rows=num_rows,
        top=rows.top,
        dtype=DTYPES.index(logits.dtype),
        threads=torch.get_num_threads() if num_rows * num_columns >= MIN_ELEMENTS_FOR_THREADS else 1,
        softcap=rows.softcap,
        temperature=temperature,
        **(numbers or {}),
    )
    tensors = tensors | {"logits": logits, "offsets": row_offsets(logits), "targets": rows.targets}
    if temperatures is not None:
        tensors["temperatures"] = temperatures
    for name, tensor in tensors.items():
        setattr(call, name, tensor.data_ptr())
    return call, tensors


def no_memory(num_columns: int) -> MemoryError:
    return MemoryError(f"no memory to work on a row of {num_columns} logits")
