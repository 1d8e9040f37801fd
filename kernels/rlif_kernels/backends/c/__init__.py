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
from rlif_kernels.backends.torch import row_maximum as row_maximum  # the two leave the same row state
from rlif_kernels.policy_loss import LossOptions, LossRows, TokenTerms
from rlif_kernels.reference import check_values
from rlif_kernels.stats import STATE_ROWS, row_coefficients, row_offsets

# Below this many elements more threads cost more than they save: about 40 microseconds of work.
MIN_ELEMENTS_FOR_THREADS = 1 << 16

DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # by their numbers in vectors.h


class _Call(ctypes.Structure):
    """`Call` of kernels.c, field by field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("logits", "offsets", "targets", "temperatures")),
        *((name, ctypes.c_double) for name in ("temperature", "softcap")),
        *((name, ctypes.c_int64) for name in ("columns", "rows")),
        *((name, ctypes.c_int32) for name in ("dtype", "threads")),
        *((name, ctypes.c_void_p) for name in ("logprob", "entropy", "self_certainty", "logsumexp")),
        *((name, ctypes.c_void_p) for name in ("sum_sq_probs", "top_probs", "state")),
        *(
            (name, ctypes.c_void_p)
            for name in ("grad", "grad_offsets", "c_p", "c_plogp", "c_pp", "c_1", "c_y", "c_rest")
        ),
        *((name, ctypes.c_void_p) for name in (*LossRows._fields, "loss", "kl", "clipped")),
        *((name, ctypes.c_double) for name in ("low", "high", "delta", "beta", "entropy_coef", "self_certainty_coef")),
        *((name, ctypes.c_void_p) for name in ("uniform", "drawn")),
    )


def serves(logits: Tensor) -> bool:
    """Whether this backend can take these logits, on this machine."""
    return logits.device.type == "cpu" and logits.dtype in DTYPES and library() is not None


def forward(
    logits: Tensor,
    targets: Tensor,
    temperature: float | Tensor,
    softcap: float,
    num_columns: int,
    outputs: Sequence[str],
) -> tuple[dict[str, Tensor], Tensor]:
    """Return the requested fields, flat (N, …) float32, and the row state: m, log s, ±n, entropy, sum p², 1 - p_y."""
    check_values(targets, temperature, num_columns)
    num_rows = targets.numel()
    state = logits.new_zeros((STATE_ROWS, num_rows), dtype=torch.float32)
    fields = {name: state.new_zeros((num_rows, 2) if name == "top_probs" else num_rows) for name in outputs}
    _run("rlif_forward", logits, targets, temperature, softcap, num_columns, fields | {"state": state})
    return fields, state


def sample(
    logits: Tensor, uniform: Tensor, temperature: float, outputs: Sequence[str]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Draw a token of each row: (N,) int64, -1 where a row is no distribution, and the requested fields."""
    num_rows, num_columns = uniform.numel(), logits.shape[-1]
    drawn = torch.zeros(num_rows, dtype=torch.int64)
    state = torch.zeros((STATE_ROWS, num_rows), dtype=torch.float32)
    fields = {name: state.new_zeros((num_rows, 2) if name == "top_probs" else num_rows) for name in outputs}
    tensors = fields | {"state": state, "uniform": uniform, "drawn": drawn}
    _run("rlif_sample", logits, drawn, temperature, 0.0, num_columns, tensors)
    return drawn, fields


def backward(
    grad_logits: Tensor,
    grads: dict[str, Tensor],
    logits: Tensor,
    targets: Tensor,
    temperature: float | Tensor,
    softcap: float,
    num_columns: int,
    row_state: Tensor,
) -> None:
    """Write the gradient of the logits; `grad_logits` may be the logits themselves."""
    _expect_gradient(grad_logits, logits, num_columns)
    coefficients = {f"c_{name}": value for name, value in row_coefficients(grads, row_state, temperature).items()}
    tensors = coefficients | {"grad": grad_logits, "grad_offsets": row_offsets(grad_logits), "state": row_state}
    _run("rlif_backward", logits, targets, temperature, softcap, num_columns, tensors)


def grpo(
    grad_logits: Tensor,
    logits: Tensor,
    targets: Tensor,
    temperature: float | Tensor,
    softcap: float,
    num_columns: int,
    outputs: Sequence[str],
    rows: LossRows,
    options: LossOptions,
) -> tuple[dict[str, Tensor], TokenTerms]:
    """The statistics and the loss of each row, and its gradient; `grad_logits` may be the logits themselves."""
    check_values(targets, temperature, num_columns)
    _expect_gradient(grad_logits, logits, num_columns)
    num_rows = targets.numel()
    state = logits.new_zeros((STATE_ROWS, num_rows), dtype=torch.float32)
    results = {name: state.new_zeros(num_rows) for name in (*outputs, "loss", "kl")}
    results["clipped"] = state.new_zeros(num_rows, dtype=torch.bool)
    given = {name: value for name, value in rows._asdict().items() if value is not None}
    tensors = {"grad": grad_logits, "grad_offsets": row_offsets(grad_logits), "state": state, **results, **given}
    numbers = {"low": 1 - options.epsilon_low, "high": 1 + options.epsilon_high}
    numbers |= {name: getattr(options, name) for name in ("delta", "beta", "entropy_coef", "self_certainty_coef")}
    _run("rlif_grpo", logits, targets, temperature, softcap, num_columns, tensors, numbers)
    kl = None if rows.ref_logprob is None else results["kl"]
    return {name: results[name] for name in outputs}, TokenTerms(results["loss"], kl, results["clipped"], {})


def _expect_gradient(grad_logits: Tensor, logits: Tensor, num_columns: int) -> None:
    kernels = library()
    assert kernels is not None
    if grad_logits.data_ptr() != logits.data_ptr():
        kernels.rlif_expect_writes(ctypes.c_void_p(grad_logits.data_ptr()), ctypes.c_int64(grad_logits.nbytes))
    grad_logits[..., num_columns:] = 0


def _run(
    function: str,
    logits: Tensor,
    targets: Tensor,
    temperature: float | Tensor,
    softcap: float,
    num_columns: int,
    tensors: dict[str, Tensor],
    numbers: dict[str, float] | None = None,
) -> None:
    tensors = tensors | {"logits": logits, "offsets": row_offsets(logits), "targets": targets}
    call = _Call(columns=num_columns, rows=targets.numel(), dtype=DTYPES.index(logits.dtype), softcap=softcap)
    if isinstance(temperature, Tensor):
        tensors["temperatures"] = temperature
    else:
        call.temperature = temperature
    for name, number in (numbers or {}).items():
        setattr(call, name, number)
    for name, tensor in tensors.items():
        setattr(call, name, tensor.data_ptr())
    call.threads = torch.get_num_threads() if targets.numel() * num_columns >= MIN_ELEMENTS_FOR_THREADS else 1
    if getattr(library(), function)(ctypes.byref(call)):
        raise MemoryError(f"no memory to work on a row of {num_columns} logits")
