"""The Triton backend: how its kernels are launched.

`forward`, `backward` and `grpo` hold the kernels, `lanes` and `blocks` what they share. `plan` says how a call is
launched, from the table in `launches`.
"""

import contextvars
import functools
import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
from torch import Tensor

from rlif_kernels.backends.triton import plan
from rlif_kernels.backends.triton.backward import backward_kernel
from rlif_kernels.backends.triton.blocks import GUARDED, LOG2E, SHORT
from rlif_kernels.backends.triton.forward import forward_kernel
from rlif_kernels.backends.triton.grpo import grpo_kernel, scale_kernel, terms_kernel
from rlif_kernels.backends.triton.lanes import NUM_PARTS, needed_parts
from rlif_kernels.backends.triton.launches import DESCRIPTOR, Launch
from rlif_kernels.backends.triton.plan import LANES, LOAD_BYTES, TILES, Device, cdiv
from rlif_kernels.functional import DIFFERENTIABLE, STATISTICS
from rlif_kernels.loss_options import LossOptions
from rlif_kernels.loss_terms import KERNEL_ROWS, LossRows, TokenTerms
from rlif_kernels.rows import Rows, RowState, empty_results, row_offsets
from rlif_kernels.stats import DEFAULT_OUTPUTS

SCALE_BLOCK = 8192
TERMS_ROWS = 128
# Column numbers and row numbers times the rows of the state are 32-bit in the kernels (offsets of rows are 64-bit).
MAX_COLUMNS, MAX_ROWS = 2**31 - 2**18, 2**31 // 8
# Softcaps whose powers up to the tenth, and their reciprocals, are float32.
SHORT_SOFTCAPS = 2.0**-11, 2.0**11
# MI300 and MI350 have 256 MB of cache between L2, which eight groups of multiprocessors have of their own, and memory.
MEMORY_CACHES = {"gfx942": 256 << 20, "gfx950": 256 << 20}
# The interpreter runs programs one by one, in no cache.
INTERPRETER = Device("interpreter", multiprocessors=1, cache_bytes=1 << 40)


def softcap_form(softcap: float) -> int:
    """Which form of tanh the kernels' loops have; 0 without a softcap."""
    if softcap <= 0:
        return 0
    form: int = SHORT.value if SHORT_SOFTCAPS[0] <= softcap <= SHORT_SOFTCAPS[1] else GUARDED.value
    return form


def launch_options(launch: Launch) -> dict[str, int | bool]:
    """What Triton is told beside a kernel's arguments."""
    options: dict[str, int | bool] = {"num_warps": launch.num_warps, "enable_fp_fusion": False}
    if launch.max_registers:
        options["maxnreg"] = launch.max_registers
    return options


def forward_constants(
    launch: Launch, dtype: torch.dtype, outputs: Sequence[str], wide: bool, softcap: int, slices: int = 1, top: int = 0
) -> dict[str, Any]:
    """The forward kernel's compile-time arguments and launch options; `softcap` is a `softcap_form`.

    `top` is k of `top_ids`, where that is asked for.
    """
    top = top if "top_ids" in outputs else int("argmax" in outputs)
    return {
        "LANES": LANES,
        "SLICE": LANES // slices,
        "K": LOAD_BYTES // dtype.itemsize,  # as many columns as make a 16-byte load
        "TILES": TILES,
        "WIDE": wide,
        "SOFTCAP": softcap,
        "SUMS": needed_parts(outputs, softcap),
        "TOP": top,
        "SLOTS": triton.next_power_of_2(max(top, 1)),
        "UNROLL": launch.unroll,
        "STAGES": _stages(launch),
        "LOAD": launch.load,
        **launch_options(launch),
    }


def backward_constants(
    launch: Launch, tiles: int, dtype: torch.dtype, wide: bool, softcap: int, padded: bool = False
) -> dict[str, Any]:
    """The backward kernel's compile-time arguments and launch options."""
    return {
        "BLOCK": launch.block_bytes // dtype.itemsize,
        "TILES": tiles,
        "WIDE": wide,
        "PADDED": padded,
        "SOFTCAP": softcap,
        "STAGES": _stages(launch),
        "LOAD": launch.second_load,
        "STORE": launch.store,
        **launch_options(launch),
    }


def grpo_constants(
    launch: Launch,
    dtype: torch.dtype,
    outputs: Sequence[str],
    options: LossOptions,
    wide: bool,
    wide_grad: bool,
    softcap: int,
    padded: bool = False,
) -> dict[str, Any]:
    """The compile-time arguments and launch options of the kernel of `grpo_loss`."""
    return {
        "LANES": LANES,
        "K": LOAD_BYTES // dtype.itemsize,
        "TILES": TILES,
        "BLOCK": launch.block_bytes // dtype.itemsize,
        "WIDE": wide,
        "WIDE_GRAD": wide_grad,
        "PADDED": padded,
        "SOFTCAP": softcap,
        "SUMS": needed_parts(outputs, softcap),
        "E": options.entropy_coef != 0,
        "U": options.self_certainty_coef != 0,
        "CORRECTED": options.kl_ratio != 0,
        "UNROLL": launch.unroll,
        "STAGES": _stages(launch),
        "LOAD": launch.load,
        "SECOND_LOAD": launch.second_load,
        "STORE": launch.store,
        **launch_options(launch),
    }


def forward(logits: Tensor, rows: Rows, outputs: Sequence[str]) -> tuple[dict[str, Tensor], Tensor]:
    """`backends.Backend.forward`: a program for each row, or for each part of few rows."""
    num_rows, num_columns = rows.num_rows, rows.num_columns
    fields, state = empty_results(logits, rows, outputs)
    if num_rows == 0:
        return fields, state
    check_size(rows)
    base, stride, offsets, wide = row_addresses(logits)
    planned = plan.forward(
        num_rows, num_columns, logits.element_size(), device_of(logits), plan.has_large_state(outputs), rows.softcap > 0
    )
    slices = planned.slices if planned.split else 1
    softcap = softcap_form(rows.softcap)
    constants = forward_constants(planned.launch, logits.dtype, outputs, wide, softcap, slices, rows.top)
    parts = counters = None
    if planned.split:
        parts = state.new_empty((num_rows, planned.chunks, NUM_PARTS.value, LANES))
        counters = state.new_zeros(num_rows, dtype=torch.int32)
    temperatures, temperature = rows.split_temperature
    with device_guard(logits):
        with_memory(forward_kernel[(planned.programs,)], planned.launch, logits)(
            base, offsets, rows.targets, temperatures,
            *(fields.get(name) for name in STATISTICS), rows.rank_above,
            state, parts, counters, stride, num_rows, num_columns, LOG2E.value / temperature, rows.softcap,
            planned.chunks, **constants,
        )  # fmt: skip
    return fields, state


def backward(grad_logits: Tensor, grads: dict[str, Tensor], logits: Tensor, rows: Rows, row_state: Tensor) -> None:
    """`backends.Backend.backward`: a program for each chunk of each row."""
    num_rows, num_columns, width = rows.num_rows, rows.num_columns, logits.shape[-1]
    if num_rows == 0:
        return
    base, stride, offsets, wide = row_addresses(logits)
    grad_base, grad_stride, grad_offsets, grad_wide = row_addresses(grad_logits)
    planned = plan.backward(num_rows, num_columns, logits.element_size(), device_of(logits))
    constants = backward_constants(
        planned.launch, planned.tiles, logits.dtype, wide and grad_wide, softcap_form(rows.softcap), num_columns < width
    )
    temperatures, temperature = rows.split_temperature
    with device_guard(logits):
        backward_kernel[(planned.programs,)](
            grad_base, base, offsets, rows.targets, temperatures,
            *(grads.get(name) for name in DIFFERENTIABLE),
            row_state, grad_offsets, stride, grad_stride, num_rows, num_columns, width, LOG2E.value / temperature,
            rows.softcap, planned.chunks, **constants,
        )  # fmt: skip


def grpo(
    grad_logits: Tensor,
    logits: Tensor,
    rows: Rows,
    outputs: Sequence[str],
    loss_rows: LossRows,
    options: LossOptions,
) -> tuple[dict[str, Tensor], TokenTerms]:
    """`backends.FusedLoss`: a program reads a row, and writes its gradient while the row is in the cache.

    Where that fills the device worse, they are a forward, the loss, and a backward, with the same bits.
    """
    num_rows, num_columns, width = rows.num_rows, rows.num_columns, logits.shape[-1]
    check_size(rows)
    names = ["loss"] + (["kl"] if loss_rows.ref_logprob is not None else [])
    results = {name: logits.new_empty(num_rows, dtype=torch.float32) for name in names}
    clipped = logits.new_empty(num_rows, dtype=torch.bool)
    if num_rows == 0:
        fields, _ = empty_results(logits, rows, outputs)
        return fields, TokenTerms(results["loss"], results.get("kl"), clipped, {})
    planned = plan.loss(num_rows, num_columns, logits.element_size(), device_of(logits), rows.softcap > 0)
    if planned.path == "pair":
        fields, row_state = forward(logits, rows, outputs)
        with device_guard(logits):
            grads = _launch_terms(fields, rows, loss_rows, options, results, clipped)
        backward(grad_logits, grads, logits, rows, row_state)
        return fields, TokenTerms(results["loss"], results.get("kl"), clipped, {})
    base, stride, offsets, wide = row_addresses(logits)
    grad_base, grad_stride, grad_offsets, grad_wide = row_addresses(grad_logits)
    constants = grpo_constants(
        planned.launch, logits.dtype, outputs, options, wide, grad_wide, softcap_form(rows.softcap), num_columns < width
    )
    temperatures, temperature = rows.split_temperature
    fields = {name: logits.new_empty(num_rows, dtype=torch.float32) for name in outputs}
    tokens = loss_rows[: len(KERNEL_ROWS)]
    with device_guard(logits):
        with_memory(grpo_kernel[(planned.programs,)], planned.launch, logits)(
            grad_base, base, offsets, grad_offsets, rows.targets, temperatures,
            *tokens, results["loss"], *(fields.get(name) for name in DEFAULT_OUTPUTS), results.get("kl"),
            clipped.view(torch.int8), stride, grad_stride, num_rows, num_columns, width, LOG2E.value / temperature,
            rows.softcap, plan.num_chunks(num_columns, logits.element_size()), *_numbers(options), **constants,
        )  # fmt: skip
    return fields, TokenTerms(results["loss"], results.get("kl"), clipped, {})


def _launch_terms(
    fields: dict[str, Tensor],
    rows: Rows,
    loss_rows: LossRows,
    options: LossOptions,
    results: dict[str, Tensor],
    clipped: Tensor,
) -> dict[str, Tensor]:
    """Write the loss, k3 and the clip flag of each row; return the derivative by each field."""
    terms = {"logprob": True, "entropy": options.entropy_coef != 0, "self_certainty": options.self_certainty_coef != 0}
    grads = {name: torch.empty_like(results["loss"]) for name, present in terms.items() if present}
    tokens = loss_rows[: len(KERNEL_ROWS)]
    terms_kernel[(cdiv(rows.num_rows, TERMS_ROWS),)](
        rows.targets, *(fields.get(name) for name in DEFAULT_OUTPUTS), *tokens, results["loss"], results.get("kl"),
        clipped.view(torch.int8), *(grads.get(name) for name in DEFAULT_OUTPUTS), rows.num_rows, *_numbers(options),
        E=terms["entropy"], U=terms["self_certainty"], CORRECTED=options.kl_ratio != 0, ROWS=TERMS_ROWS, num_warps=4,
        enable_fp_fusion=False,
    )  # fmt: skip
    return grads


def _numbers(options: LossOptions) -> tuple[float, ...]:
    """The numbers of the loss, in the kernels' order."""
    return (
        1 - options.epsilon_low, 1 + options.epsilon_high, options.delta, options.beta, options.entropy_coef,
        options.self_certainty_coef,
    )  # fmt: skip


def scale_unless_one(tensor: Tensor, factor: Tensor) -> None:
    """Multiply in place by a number () on the same device, which need not be known here."""
    if not tensor.is_contiguous():
        tensor.mul_(factor)
    elif tensor.numel():
        with device_guard(tensor):
            scale_kernel[(cdiv(tensor.numel(), SCALE_BLOCK),)](
                tensor, factor, tensor.numel(), BLOCK=SCALE_BLOCK, num_warps=8
            )


def row_maximum(row_state: Tensor, rows: Rows) -> Tensor:
    """The largest z of each row, (N,) float64.

    The state has it in units of log 2, but for the rows that needed guards (n < 0): there it is the largest logit.
    """
    state = RowState(*row_state)
    m = state.m.double()
    return torch.where(state.n < 0, m / rows.flat_temperature, m / LOG2E.value)


def distances(x: Tensor, row_state: Tensor, rows: Rows) -> Tensor:
    """z less what the row's sums are relative to, (N, K) float64, of some capped logits of each row.

    By the kernels' own factor, which is float32: m is a product with it, and another would move large logits.
    """
    state, temperature = RowState(*row_state), rows.flat_temperature
    if isinstance(temperature, Tensor):
        scale = (LOG2E.value / temperature).double()[:, None]
    else:
        scale = torch.tensor(LOG2E.value / temperature, dtype=torch.float32, device=x.device).double()
    m = state.m.double()[:, None]
    distance = torch.where(state.n[:, None] < 0, (x.double() - m) * scale, x.double() * scale - m)
    return distance / LOG2E.value


def device_of(tensor: Tensor) -> Device:
    """What `plan` has to know of the tensor's device."""
    return INTERPRETER if tensor.device.type == "cpu" else _device(tensor.device.type, tensor.get_device())


@functools.cache
def _device(kind: str, index: int) -> Device:
    properties = torch.get_device_module(kind).get_device_properties(index)
    if kind != "cuda":  # of Intel's, Triton's shapes are not known here: four programs of the forward to each core
        return Device(kind, properties.gpu_subslice_count, getattr(properties, "last_level_cache_size", 1 << 26))
    architecture = f"sm_{properties.major}{properties.minor}"
    registers = getattr(properties, "regs_per_multiprocessor", 65536)
    if torch.version.hip:
        architecture = properties.gcnArchName.split(":")[0]
        registers = 4 * 512 * 64  # four units of 512 vector registers for each of 64 threads
    return Device(
        architecture,
        properties.multi_processor_count,
        MEMORY_CACHES.get(architecture, properties.L2_cache_size),
        properties.warp_size,
        registers,
        properties.max_threads_per_multi_processor,
        getattr(properties, "shared_memory_per_multiprocessor", 228 << 10),
    )


def _stages(launch: Launch) -> int | None:
    """None where no loads go ahead: then Triton does not look for a pipeline."""
    return launch.num_stages if launch.num_stages > 1 else None


def with_memory(start: Callable[..., object], launch: Launch, tensor: Tensor) -> Callable[..., object]:
    """What starts a kernel; of one that makes tensor descriptors with memory for them, from torch.

    Triton asks an allocator for it, of which each context has one. Ours is set in a copy of the context: the caller's
    stays what it is.
    """
    if launch.load != DESCRIPTOR:
        return start

    def started(*arguments: object, **constants: object) -> None:
        context = contextvars.copy_context()
        context.run(triton.set_allocator, lambda size, *_: tensor.new_empty(size, dtype=torch.int8))
        context.run(start, *arguments, **constants)

    return started


def check_size(rows: Rows) -> None:
    if rows.num_columns > MAX_COLUMNS or rows.num_rows > MAX_ROWS:
        raise ValueError(
            f"logits has {rows.num_rows} rows of {rows.num_columns} columns to read; expected at most {MAX_ROWS} of "
            f"{MAX_COLUMNS}"
        )


def row_addresses(tensor: Tensor) -> tuple[Tensor, int, Tensor | None, bool]:
    """The tensor, its row stride or else a table of row offsets, and whether each row starts on 16 bytes."""
    if tensor.is_contiguous():  # at once, as nearly all are
        row_bytes = tensor.shape[-1] * tensor.element_size()
        wide = tensor.data_ptr() % 16 == 0 and (row_bytes % 16 == 0 or tensor.numel() == tensor.shape[-1])
        return tensor, tensor.shape[-1], None, wide
    shape, strides = tensor.shape[:-1], tensor.stride()[:-1]
    dims = [(size, stride) for size, stride in zip(shape, strides, strict=True) if size > 1]
    wide = tensor.data_ptr() % 16 == 0 and all(stride * tensor.element_size() % 16 == 0 for _, stride in dims)
    if all(outer == size * inner for (_, outer), (size, inner) in itertools.pairwise(dims)):
        return tensor, dims[-1][1] if dims else 0, None, wide
    return tensor, 0, row_offsets(tensor), wide


def device_guard(tensor: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device, which need not be the tensor's. The interpreter has no devices."""
    if tensor.device.type == "cpu":
        return nullcontext()
    return torch.get_device_module(tensor.device).device(tensor.device)
