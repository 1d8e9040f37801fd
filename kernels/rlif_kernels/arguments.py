"""Checks of the arguments of `token_stats`, of everything that needs no look at the tensors' values.

Each error names the argument, what came and what was expected.
"""

import torch
from torch import Tensor

from rlif_kernels.stats import FIELDS


def check_arguments(
    logits: Tensor,
    targets: Tensor,
    temperature: float | Tensor,
    mask: Tensor | None,
    vocab_size: int | None,
    softcap: float | None,
    outputs: tuple[str, ...],
    backend: str | None,
) -> None:
    """Check everything that needs no look at the tensors' values."""
    for name, tensor in (("logits", logits), ("targets", targets)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} is a {type(tensor).__name__}; expected a torch.Tensor")
    if logits.layout != torch.strided:
        raise TypeError(f"logits has layout {logits.layout}; expected torch.strided")
    if logits.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise TypeError(f"logits has dtype {logits.dtype}; expected float32, bfloat16 or float16")
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(f"logits has shape {tuple(logits.shape)}; expected (..., V) with V >= 1")
    if logits.shape[-1] > 1 and logits.stride(-1) != 1:
        raise ValueError(f"logits has stride {logits.stride(-1)} in its last dimension; expected 1 (contiguous)")
    _check_per_row("targets", targets, logits)
    if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
        raise TypeError(f"targets has dtype {targets.dtype}; expected an integer dtype")
    if isinstance(temperature, Tensor):
        _check_per_row("temperature", temperature, logits)
        if not temperature.is_floating_point():
            raise TypeError(f"temperature has dtype {temperature.dtype}; expected a floating dtype")
    else:
        _check_positive("temperature", temperature)
    if mask is not None:
        if not isinstance(mask, Tensor):
            raise TypeError(f"mask is a {type(mask).__name__}; expected a torch.Tensor or None")
        _check_per_row("mask", mask, logits)
        if mask.dtype != torch.bool:
            raise TypeError(f"mask has dtype {mask.dtype}; expected torch.bool")
    if softcap is not None:
        _check_positive("softcap", softcap)
    if vocab_size is not None and (not isinstance(vocab_size, int | torch.SymInt) or isinstance(vocab_size, bool)):
        raise TypeError(f"vocab_size is {vocab_size!r}; expected an integer or None")
    if not isinstance(outputs, tuple | list) or not outputs or not all(name in FIELDS for name in outputs):
        raise ValueError(f"outputs is {outputs!r}; expected a non-empty tuple of names out of {FIELDS}")
    if backend not in ("triton", "cpu", "torch", None):
        raise ValueError(f'backend is {backend!r}; expected "triton", "cpu", "torch" or None')


def _check_positive(name: str, number: float) -> None:
    if not isinstance(number, int | float | torch.SymFloat) or isinstance(number, bool):
        raise TypeError(f"{name} is {number!r}; expected a positive number")
    # The kernels compute in float32: a number that is 0 or infinite there would make NaN of every row.
    if not torch.finfo(torch.float32).tiny <= number <= torch.finfo(torch.float32).max:
        raise ValueError(f"{name} is {number}; expected a positive number that float32 can hold")


def check_vocab_size(vocab_size: int | None, num_columns: int) -> int:
    """The number of columns to read."""
    if vocab_size is None:
        return num_columns
    if not 1 <= vocab_size <= num_columns:
        raise ValueError(f"vocab_size is {vocab_size}; expected 1 to {num_columns}, the columns of logits")
    return vocab_size


def _check_per_row(name: str, tensor: Tensor, logits: Tensor) -> None:
    rows = logits.shape[:-1]
    if tensor.shape != rows:
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}; expected {tuple(rows)}, the shape of logits less its last one"
        )
    if tensor.device != logits.device:
        raise ValueError(f"{name} is on {tensor.device}; expected {logits.device}, the device of logits")


def check_inplace(logits: Tensor) -> None:
    """Refuse an in-place gradient that would overwrite a parameter, or elements that share memory."""
    base = None if torch.compiler.is_compiling() else logits._base
    for tensor, what in ((logits, "a leaf that requires grad"), (base, "a view of a leaf that requires grad")):
        if tensor is not None and tensor.is_leaf and tensor.requires_grad:
            raise ValueError(f"inplace_backward needs logits that an operation computed; got {what}")
    extent = 1
    for stride, size in sorted((stride, size) for size, stride in zip(logits.shape, logits.stride(), strict=True)):
        if size > 1:
            if stride < extent:
                raise ValueError(
                    "inplace_backward needs logits whose elements each have their own memory; got an expanded or "
                    f"overlapping view with strides {tuple(logits.stride())}"
                )
            extent += stride * (size - 1)
