"""Checks of the public functions' arguments, and the form in which the library ops take them.

Each error names the argument, what came and what was expected. Nothing here looks at the tensors' values.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from rlif_kernels.backends import BACKENDS
from rlif_kernels.stats import FIELDS, IGNORE_INDEX

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class RowArguments(NamedTuple):
    """What the library ops are told of the rows, checked."""

    targets: Tensor
    """int64, contiguous; IGNORE_INDEX in masked rows."""
    temperature: Tensor | None
    """Of each row, float32, contiguous; None where one number serves all."""
    scalar_temperature: float
    softcap: float
    """0: none."""
    num_columns: int
    """Columns to read."""
    outputs: str
    """The requested fields, separated by commas: an op takes no list of strings."""
    backend: str
    group: str
    """The name of the process group over which the vocabulary is sharded, or ""."""


def row_arguments(
    source: Tensor,
    source_name: str,
    num_columns: int,
    targets: Tensor,
    temperature: float | Tensor,
    mask: Tensor | None,
    vocab_size: int | None,
    softcap: float | None,
    outputs: tuple[str, ...],
    backend: str | None,
    group: "ProcessGroup | None",
) -> tuple[RowArguments, int]:
    """Check what all functions have in common.

    Args:
        source: (..., anything): the logits or hidden states whose rows the other arguments describe.
        num_columns: the columns that are there; the others are the arguments of `token_stats`.

    Returns:
        the rows' arguments, and the largest number of columns that a process of the group holds.
    """
    if not isinstance(targets, Tensor):
        raise TypeError(f"targets is a {type(targets).__name__}; expected a torch.Tensor")
    _check_per_row("targets", targets, source, source_name)
    if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
        raise TypeError(f"targets has dtype {targets.dtype}; expected an integer dtype")
    if isinstance(temperature, Tensor):
        _check_per_row("temperature", temperature, source, source_name)
        if not temperature.is_floating_point():
            raise TypeError(f"temperature has dtype {temperature.dtype}; expected a floating dtype")
    else:
        _check_positive("temperature", temperature)
    if mask is not None:
        if not isinstance(mask, Tensor):
            raise TypeError(f"mask is a {type(mask).__name__}; expected a torch.Tensor or None")
        _check_per_row("mask", mask, source, source_name)
        if mask.dtype != torch.bool:
            raise TypeError(f"mask has dtype {mask.dtype}; expected torch.bool")
    if softcap is not None:
        _check_positive("softcap", softcap)
    if vocab_size is not None and (not isinstance(vocab_size, int | torch.SymInt) or isinstance(vocab_size, bool)):
        raise TypeError(f"vocab_size is {vocab_size!r}; expected an integer or None")
    if not isinstance(outputs, tuple | list) or not outputs or not all(name in FIELDS for name in outputs):
        raise ValueError(f"outputs is {outputs!r}; expected a non-empty tuple of names out of {FIELDS}")
    if backend not in (*BACKENDS, None):
        raise ValueError(f'backend is {backend!r}; expected "triton", "cpu", "torch" or None')

    targets = targets.long().contiguous()
    if mask is not None:
        targets = targets.masked_fill(~mask, IGNORE_INDEX).contiguous()
    row_temperature, scalar_temperature = None, 1.0
    if isinstance(temperature, Tensor):
        row_temperature = temperature.detach().float().contiguous()
    else:
        scalar_temperature = float(temperature)
    largest_slice = num_columns
    if group is None:
        num_columns = check_vocab_size(vocab_size, num_columns)
    else:
        from rlif_kernels.backends.sharded.parallel import own_slice  # torch.distributed may be absent

        used = scalar_temperature if row_temperature is None else row_temperature
        targets, num_columns, largest_slice = own_slice(targets, used, num_columns, vocab_size, group)
    rows = RowArguments(
        targets,
        row_temperature,
        scalar_temperature,
        0.0 if softcap is None else float(softcap),
        num_columns,
        ",".join(name for name in FIELDS if name in outputs),
        backend or "auto",
        "" if group is None else group.group_name,
    )
    return rows, largest_slice


def check_logits(logits: Tensor) -> None:
    """Logits are (..., V), strided as one likes but in the last dimension."""
    _check_matrix("logits", logits)
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(f"logits has shape {tuple(logits.shape)}; expected (..., V) with V >= 1")
    if logits.shape[-1] > 1 and logits.stride(-1) != 1:
        raise ValueError(f"logits has stride {logits.stride(-1)} in its last dimension; expected 1 (contiguous)")


def check_head(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """The hidden states (..., H) and the head (V, H), (V,) fit together."""
    for name, tensor in (("hidden", hidden), ("weight", weight)):
        _check_matrix(name, tensor)
    if hidden.ndim == 0 or hidden.shape[-1] == 0:
        raise ValueError(f"hidden has shape {tuple(hidden.shape)}; expected (..., H) with H >= 1")
    if weight.ndim != 2 or weight.shape[1] != hidden.shape[-1] or weight.shape[0] == 0:
        raise ValueError(f"weight has shape {tuple(weight.shape)}; expected (V, {hidden.shape[-1]}), H that of hidden")
    parts = [("weight", weight)]
    if bias is not None:
        if not isinstance(bias, Tensor):
            raise TypeError(f"bias is a {type(bias).__name__}; expected a torch.Tensor or None")
        if bias.shape != weight.shape[:1]:
            raise ValueError(f"bias has shape {tuple(bias.shape)}; expected ({weight.shape[0]},), V that of weight")
        parts.append(("bias", bias))
    for name, tensor in parts:
        # Autocast brings them to one dtype: float32 parameters and bfloat16 hidden states are common under it.
        if tensor.dtype != hidden.dtype and not torch.is_autocast_enabled(hidden.device.type):
            raise TypeError(f"{name} has dtype {tensor.dtype}; expected {hidden.dtype}, the dtype of hidden")
        if tensor.device != hidden.device:
            raise ValueError(f"{name} is on {tensor.device}; expected {hidden.device}, the device of hidden")


def check_tile_bytes(tile_bytes: int) -> None:
    if not isinstance(tile_bytes, int) or isinstance(tile_bytes, bool):
        raise TypeError(f"tile_bytes is {tile_bytes!r}; expected an integer")
    if tile_bytes < 1:
        raise ValueError(f"tile_bytes is {tile_bytes}; expected a positive number of bytes")


def check_vocab_size(vocab_size: int | None, num_columns: int) -> int:
    """The number of columns to read."""
    if vocab_size is None:
        return num_columns
    if not 1 <= vocab_size <= num_columns:
        raise ValueError(f"vocab_size is {vocab_size}; expected 1 to {num_columns}, the columns of logits")
    return vocab_size


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


def _check_matrix(name: str, tensor: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} is a {type(tensor).__name__}; expected a torch.Tensor")
    if tensor.layout != torch.strided:
        raise TypeError(f"{name} has layout {tensor.layout}; expected torch.strided")
    if tensor.dtype not in DTYPES:
        raise TypeError(f"{name} has dtype {tensor.dtype}; expected float32, bfloat16 or float16")


def _check_positive(name: str, number: float) -> None:
    if not isinstance(number, int | float | torch.SymFloat) or isinstance(number, bool):
        raise TypeError(f"{name} is {number!r}; expected a positive number")
    # The kernels compute in float32: a number that is 0 or infinite there would make NaN of every row.
    if not torch.finfo(torch.float32).tiny <= number <= torch.finfo(torch.float32).max:
        raise ValueError(f"{name} is {number}; expected a positive number that float32 can hold")


def _check_per_row(name: str, tensor: Tensor, source: Tensor, source_name: str) -> None:
    rows = source.shape[:-1]
    if tensor.shape != rows:
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}; expected {tuple(rows)}, the shape of {source_name} less its last "
            "one"
        )
    if tensor.device != source.device:
        raise ValueError(f"{name} is on {tensor.device}; expected {source.device}, the device of {source_name}")
