"""The C backend of divergences: `pairs.h`. All looks at a pair of rows come while it is in the cache."""

import ctypes

import torch
from torch import Tensor

from rlif_kernels.backends.c import Call, call_of, expect_gradient, no_memory
from rlif_kernels.backends.c.build import library
from rlif_kernels.pairs import KINDS, NUM_STATE, NUM_SUMS, PAIR_OUTPUTS, Pair, check_pair
from rlif_kernels.rows import row_offsets

SUMS, MIXTURE, GRADIENT = 1, 2, 4  # the looks, by their numbers in pairs.h


class _PairCall(ctypes.Structure):
    """`PairCall` of pairs.h, field by field."""

    _fields_ = (
        ("student", Call),
        ("teacher", Call),
        *((name, ctypes.c_void_p) for name in ("sums", "mixture", "state", "values", "weight")),
        ("beta", ctypes.c_double),
        *((name, ctypes.c_int32) for name in ("kind", "passes")),
    )


def divergence(grad_logits: Tensor | None, pair: Pair) -> dict[str, Tensor]:
    """`backends.pairs.PairBackend.divergence`."""
    check_pair(pair)
    values = pair.weight.new_zeros((len(PAIR_OUTPUTS), pair.rows.num_rows))
    looks = SUMS | (MIXTURE if pair.kind == "jsd" else 0) | (GRADIENT if grad_logits is not None else 0)
    tables = {"sums": _table(pair, NUM_SUMS), "mixture": _table(pair, 2), "state": _table(pair, NUM_STATE)}
    _run(pair, looks, tables | {"values": values}, grad_logits)
    return {name: value.clone() for name, value in zip(PAIR_OUTPUTS, values, strict=True)}


def sums(pair: Pair) -> Tensor:
    """`backends.pairs.PairBackend.sums`."""
    check_pair(pair)
    result = _table(pair, NUM_SUMS)
    _run(pair, SUMS, {"sums": result})
    return result


def mixture(pair: Pair, state: Tensor) -> Tensor:
    """`backends.pairs.PairBackend.mixture`."""
    result = _table(pair, 2)
    _run(pair, MIXTURE, {"mixture": result, "state": state})
    return result


def gradient(grad_logits: Tensor, pair: Pair, state: Tensor) -> None:
    """`backends.pairs.PairBackend.gradient`."""
    _run(pair, GRADIENT, {"state": state}, grad_logits)


def _table(pair: Pair, height: int) -> Tensor:
    return pair.weight.new_zeros((height, pair.rows.num_rows), dtype=torch.float64)


def _run(pair: Pair, looks: int, tensors: dict[str, Tensor], grad_logits: Tensor | None = None) -> None:
    num_columns, gradient = pair.rows.num_columns, {}
    if grad_logits is not None:
        expect_gradient(grad_logits, pair.logits, num_columns)
        gradient = {"grad": grad_logits, "grad_offsets": row_offsets(grad_logits)}
    student, kept = call_of(pair.logits, pair.rows, gradient)
    teacher, kept_too = call_of(pair.teacher_logits, pair.teacher_rows, {})
    call = _PairCall(student, teacher, beta=pair.beta, kind=KINDS.index(pair.kind), passes=looks)
    tensors = tensors | {"weight": pair.weight}
    for name, tensor in tensors.items():
        setattr(call, name, tensor.data_ptr())
    kernels = library()
    assert kernels is not None
    failed = kernels.rlif_pairs(ctypes.byref(call))
    del kept, kept_too  # what the calls point to lives until here
    if failed:
        raise no_memory(num_columns)
