"""Checks of the public functions' arguments: of the rows, and on a CPU of the tensors' values.

Each error names the argument, what came and what was expected.
"""

import sys
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from rlif_kernels.dtensors import is_dtensor
from rlif_kernels.requested import requested_fields
from rlif_kernels.rows import Rows
from rlif_kernels.stats import IGNORE_INDEX
from rlif_kernels.transforms import transformed

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

BACKENDS = ("triton", "cpu", "torch")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class RowArguments(NamedTuple):
    """What every op is told, checked."""

    rows: Rows
    """The targets are contiguous, with IGNORE_INDEX in masked rows; so are temperatures of their own."""
    outputs: tuple[str, ...]
    """The requested fields, in the order of FIELDS."""
    backend: str
    """A name out of BACKENDS, or "auto"."""
    group: str
    """The name of the process group over which the vocabulary is sharded, or ""."""
    largest_slice: int
    """The largest number of columns that a process of the group holds."""


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
    several_targets: bool = False,
    top_logprobs: int | None = None,
) -> RowArguments:
    """Check what all functions have in common.

    Args:
        source: (..., anything): the logits or hidden states whose rows the other arguments describe.
        num_columns: the columns that are there; the others are the arguments of `token_stats`.
        several_targets: whether a row may have K targets, (..., K).
    """
    check_tensor("targets", targets)
    several = several_targets and targets.ndim == source.ndim and targets.shape[-1] > 0
    check_per_row("targets", targets, source, source_name, several)
    if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
        raise TypeError(f"targets has dtype {targets.dtype}; expected an integer dtype")
    temperature = checked_temperature(temperature, source, source_name, backend)
    if mask is not None:
        check_tensor("mask", mask, "a torch.Tensor or None")
        check_per_row("mask", mask, source, source_name)
        if mask.dtype != torch.bool:
            raise TypeError(f"mask has dtype {mask.dtype}; expected torch.bool")
    softcap = 0.0 if softcap is None else check_positive("softcap", softcap)
    if vocab_size is not None and (not isinstance(vocab_size, int | torch.SymInt) or isinstance(vocab_size, bool)):
        raise TypeError(f"vocab_size is {vocab_size!r}; expected an integer or None")
    names, top = requested_fields(outputs, top_logprobs)
    if backend not in (*BACKENDS, None):
        raise ValueError(f'backend is {backend!r}; expected "triton", "cpu", "torch" or None')

    targets = targets.long().contiguous()
    if mask is not None:
        targets = targets.where(mask[..., None] if several else mask, IGNORE_INDEX).contiguous()
    largest_slice = num_columns
    if group is None:
        num_columns = check_vocab_size(vocab_size, num_columns)
    else:
        from rlif_kernels.backends.sharded.parallel import own_slice  # torch.distributed may be absent

        targets, num_columns, largest_slice = own_slice(targets, temperature, num_columns, vocab_size, group)
    return RowArguments(
        Rows.of(targets, source.ndim - 1, temperature, softcap, num_columns, top),
        names,
        backend or "auto",
        "" if group is None else group.group_name,
        largest_slice,
    )


def check_logits(logits: Tensor, name: str = "logits") -> None:
    """Logits are (..., V), contiguous in the last dimension; the other strides are free."""
    _check_matrix(name, logits)
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(f"{name} has shape {tuple(logits.shape)}; expected (..., V) with V >= 1")
    if logits.shape[-1] > 1 and logits.stride(-1) != 1:
        raise ValueError(f"{name} has stride {logits.stride(-1)} in its last dimension; expected 1 (contiguous)")


def check_head(hidden: Tensor, weight: Tensor, bias: Tensor | None, whose: str = "") -> None:
    """The hidden states (..., H) and the head (V, H), (V,) fit together. `whose` begins their names."""
    for name, tensor in (("hidden", hidden), ("weight", weight)):
        _check_matrix(whose + name, tensor)
    if hidden.ndim == 0 or hidden.shape[-1] == 0:
        raise ValueError(f"{whose}hidden has shape {tuple(hidden.shape)}; expected (..., H) with H >= 1")
    if weight.ndim != 2 or weight.shape[1] != hidden.shape[-1] or weight.shape[0] == 0:
        expected = f"(V, {hidden.shape[-1]}), H that of {whose}hidden"
        raise ValueError(f"{whose}weight has shape {tuple(weight.shape)}; expected {expected}")
    parts = [(f"{whose}weight", weight)]
    if bias is not None:
        check_tensor(f"{whose}bias", bias, "a torch.Tensor or None")
        if bias.shape != weight.shape[:1]:
            expected = f"({weight.shape[0]},), V that of {whose}weight"
            raise ValueError(f"{whose}bias has shape {tuple(bias.shape)}; expected {expected}")
        parts.append((f"{whose}bias", bias))
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


def check_logits_dtype(logits_dtype: torch.dtype | None, own: torch.dtype) -> torch.dtype:
    """The dtype that a head's logits are to have, where its hidden states have the dtype `own`."""
    if logits_dtype is None:
        return own
    if not isinstance(logits_dtype, torch.dtype):
        raise TypeError(f"logits_dtype is {logits_dtype!r}; expected a torch.dtype or None")
    if logits_dtype not in (own, torch.float32):
        also = "" if own == torch.float32 else f", {own} (the dtype of hidden)"
        raise ValueError(f"logits_dtype is {logits_dtype}; expected torch.float32{also} or None")
    return logits_dtype


def check_vocab_size(vocab_size: int | None, num_columns: int) -> int:
    """The number of columns to read."""
    if vocab_size is None:
        return num_columns
    if not 1 <= vocab_size <= num_columns:
        raise ValueError(f"vocab_size is {vocab_size}; expected 1 to {num_columns}, the columns of logits")
    return vocab_size


def can_overwrite(logits: Tensor) -> bool:
    """Whether logits will have a gradient, which may be written over them."""
    if not (torch.is_grad_enabled() and logits.requires_grad):
        return False
    try:
        check_inplace(logits)
    except ValueError:
        return False
    return True


def check_inplace(logits: Tensor) -> None:
    """Refuse an in-place gradient under transforms, of a parameter, or of elements that share memory."""
    if transformed():
        raise ValueError("inplace_backward is True under torch.func or forward-mode AD; expected False")
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


def check_values(rows: Rows) -> None:
    """`check_targets` and `check_temperatures` of the rows that are not masked. Costs a GPU a synchronisation."""
    targets = rows.given_targets
    check_targets(targets, targets != IGNORE_INDEX, rows.num_columns)
    check_temperatures(rows.temperature, rows.targets != IGNORE_INDEX)


def check_targets(targets: Tensor, active: Tensor, num_columns: int) -> None:
    """Raise IndexError naming the first active target outside ``[0, num_columns)``."""
    bad = active & ((targets < 0) | (targets >= num_columns))
    if bad.any():
        position = tuple(bad.nonzero()[0].tolist())
        raise IndexError(
            f"targets{list(position)} is {int(targets[position])}; expected an id in [0, {num_columns}), "
            f"or {IGNORE_INDEX} for a row to skip"
        )


def check_temperatures(temperature: float | Tensor, active: Tensor, name: str = "temperature") -> None:
    """Raise ValueError naming the first active row whose temperature is not a positive number of float32."""
    if isinstance(temperature, Tensor):
        bad = ~_divides(temperature) & active
        if bad.any():
            position = tuple(bad.nonzero()[0].tolist())
            raise ValueError(
                f"{name}{list(position)} is {float(temperature[position])}; expected a positive number that "
                "float32 can hold"
            )


def check_tensor(name: str, value: Any, expected: str = "a torch.Tensor") -> None:
    """A plain tensor: one that is distributed over processes has values, and a gradient, that the ops cannot see."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}; expected {expected}")
    if is_dtensor(value):
        raise TypeError(
            f"{name} is a {type(value).__name__}; expected a plain torch.Tensor: {name}.to_local(), with group= where "
            f"the vocabulary is sharded, or {name}.full_tensor()"
        )


def _check_matrix(name: str, tensor: Tensor) -> None:
    check_tensor(name, tensor)
    if tensor.layout != torch.strided:
        raise TypeError(f"{name} has layout {tensor.layout}; expected torch.strided")
    if tensor.dtype not in DTYPES:
        raise TypeError(f"{name} has dtype {tensor.dtype}; expected float32, bfloat16 or float16")


def checked_temperature(
    temperature: float | Tensor, source: Tensor, source_name: str, backend: str | None, name: str = "temperature"
) -> float | Tensor:
    """A number, or float32 for each row. One number in a tensor counts as a number where to read it costs nothing."""
    if not isinstance(temperature, Tensor):
        return check_positive(name, temperature)
    if not temperature.is_floating_point():
        raise TypeError(f"{name} has dtype {temperature.dtype}; expected a floating dtype")
    temperature = temperature.detach()
    rows = source.shape[:-1]
    if temperature.ndim == 0 and len(rows):
        if temperature.device.type == "cpu" and not torch.compiler.is_compiling() and not transformed():
            return check_positive(name, temperature.item())
        temperature = temperature.to(source.device).expand(rows)
    check_tensor(name, temperature)
    check_per_row(name, temperature, source, source_name)
    if backend == "triton" or source.device.type != "cpu":
        # To raise there would need a device synchronisation: what must not divide makes NaN of its row.
        temperature = temperature.where(_divides(temperature), torch.nan)
    return temperature.float().resolve_neg().contiguous()


def _divides(temperature: Tensor) -> Tensor:
    """Which temperatures are positive numbers of float32, as `_positive` asks for."""
    limits = torch.finfo(torch.float32)
    return (temperature >= limits.tiny) & (temperature <= limits.max)


def check_number(name: str, value: Any, expected: str) -> float:
    """A Python or numpy number as a float, which torch.compile may trace as a variable."""
    if isinstance(value, bool) or not isinstance(value, float | int | torch.SymFloat | Real):
        raise TypeError(f"{name} is {value!r}; expected {expected}")
    return float(value)


def check_positive(name: str, value: float) -> float:
    number = check_number(name, value, "a positive number")
    # The kernels compute in float32: a number that is 0 or infinite there would make NaN of every row.
    if not torch.finfo(torch.float32).tiny <= number <= torch.finfo(torch.float32).max:
        raise ValueError(f"{name} is {value}; expected a positive number that float32 can hold")
    return number


def finite_number(name: str, value: float, at_least_0: bool = False) -> float:
    number = check_number(name, value, "a number")
    # Not math.isfinite, which takes no variable of torch.compile.
    if not -sys.float_info.max <= number <= sys.float_info.max or (at_least_0 and number < 0):
        raise ValueError(f"{name} is {value}; expected a finite number" + (", 0 or more" if at_least_0 else ""))
    return number


def check_per_row(name: str, tensor: Tensor, source: Tensor, source_name: str, several: bool = False) -> None:
    """One number for each row of the source, or `several`: as many for each."""
    rows = source.shape[:-1]
    if (tensor.shape[:-1] if several else tensor.shape) != rows:
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}; expected {tuple(rows)}, the shape of {source_name} less its last "
            "one"
        )
    if tensor.device != source.device:
        raise ValueError(f"{name} is on {tensor.device}; expected {source.device}, the device of {source_name}")
