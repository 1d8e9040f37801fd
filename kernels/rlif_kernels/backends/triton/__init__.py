"""The Triton backend: how its kernels are launched.

`forward`, `backward` and `grpo` hold the kernels, `blocks` what they share.
"""

import itertools
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from rlif_kernels.backends.triton.backward import backward_kernel
from rlif_kernels.backends.triton.blocks import LOG2E
from rlif_kernels.backends.triton.forward import forward_kernel
from rlif_kernels.backends.triton.grpo import grpo_kernel, scale_kernel
from rlif_kernels.policy_loss import LossOptions, LossRows, TokenTerms, token_terms
from rlif_kernels.rows import Rows, RowState, empty_results, row_offsets
from rlif_kernels.stats import DEFAULT_OUTPUTS, FIELDS

# LANES and warps: 512 lanes on 128 threads give each thread four independent 16-byte loads, enough in flight at the
#   occupancy that their registers leave; LANES also fixes the bits of a result, so it does not vary with the shape.
# TILES a chunk: 8 tiles of 4096 (bf16) or 2048 (fp32) columns. Merging a chunk costs a lane about 14 instructions, 0.2
#   an element; a smaller chunk would cost more, a larger one would leave few programs to a split row.
LANES = 512
#   The state of all fields is twice as large: with 4 warps it spills, hence 8, which leave each thread two loads.
FORWARD_TILES = 8
FORWARD_WARPS, FORWARD_WARPS_ALL_FIELDS = 4, 8
# The backward has no state to merge: its chunks are as small as keeps the row's constants (a dozen loads) negligible.
#   A block of 8 KB gives each of 128 threads four 16-byte loads, like the forward; with eight, float32 spills.
BACKWARD_BLOCK_BYTES = 8192
BACKWARD_TILES = 4
BACKWARD_WARPS = 4
# Programs that fill a large GPU (132 SMs x 4). With fewer rows than that, long rows are split into chunks, whose
#   partial states take 16 KB for each 64 KB of logits until they are folded.
SPLIT_BELOW_ROWS = 528
# A row of `grpo_loss` is read twice, the second time from L2 if the rows under way fit there: at most this share of it.
#   Of long rows that leaves one for each multiprocessor (132 rows of 151936 bfloat16 logits are 40 MB, an H200's L2 has
#   50), which then needs all of its threads; of others, two or more. Predicted, not yet measured.
L2_SHARE = 0.8
LONG_ROW_BYTES = 96 << 10
GRPO_WARPS, GRPO_WARPS_LONG = 8, 16
SCALE_BLOCK = 8192
# Column numbers and row numbers times five are 32-bit in the kernels (offsets of rows are 64-bit).
MAX_COLUMNS, MAX_ROWS = 2**31 - 2**18, 2**31 // 8


def forward_constants(dtype: torch.dtype, outputs: Sequence[str], wide: bool, softcap: bool) -> dict[str, int]:
    """The forward kernel's compile-time arguments, apart from its stage, and its launch options."""
    return {
        "LANES": LANES,
        "K": 16 // dtype.itemsize,  # as many columns as make a 16-byte load
        "TILES": FORWARD_TILES,
        "WIDE": wide,
        "SOFTCAP": softcap,
        "LOGPROB": "logprob" in outputs,
        "W": "entropy" in outputs,
        "T": "self_certainty" in outputs,
        "LOGSUMEXP": "logsumexp" in outputs,
        "Q": "sum_sq_probs" in outputs,
        "TOP": "top_probs" in outputs,
        "num_warps": FORWARD_WARPS_ALL_FIELDS if "sum_sq_probs" in outputs or "top_probs" in outputs else FORWARD_WARPS,
        "enable_fp_fusion": False,
    }


def backward_constants(dtype: torch.dtype, wide: bool, softcap: bool) -> dict[str, int]:
    """The backward kernel's compile-time arguments and launch options."""
    return {
        "BLOCK": BACKWARD_BLOCK_BYTES // dtype.itemsize,
        "TILES": BACKWARD_TILES,
        "WIDE": wide,
        "SOFTCAP": softcap,
        "num_warps": BACKWARD_WARPS,
        "enable_fp_fusion": False,
    }


def grpo_constants(
    dtype: torch.dtype,
    num_columns: int,
    outputs: Sequence[str],
    options: LossOptions,
    wide: bool,
    wide_grad: bool,
    softcap: bool,
) -> dict[str, int]:
    """The compile-time arguments and launch options of the kernel of `grpo_loss`."""
    long_row = num_columns * dtype.itemsize > LONG_ROW_BYTES
    warps = GRPO_WARPS_LONG if long_row else GRPO_WARPS
    return {
        "LANES": LANES,
        "K": 16 // dtype.itemsize,
        "TILES": FORWARD_TILES,
        "BLOCK": BACKWARD_BLOCK_BYTES // dtype.itemsize * warps // BACKWARD_WARPS,
        "WIDE": wide,
        "WIDE_GRAD": wide_grad,
        "SOFTCAP": softcap,
        "W": "entropy" in outputs,
        "T": "self_certainty" in outputs,
        "E": options.entropy_coef != 0,
        "U": options.self_certainty_coef != 0,
        "UNROLL": warps // FORWARD_WARPS,  # as many loads under way as in the forward, for all the more threads a row
        "num_warps": warps,
        "enable_fp_fusion": False,
    }


def forward(logits: Tensor, rows: Rows, outputs: Sequence[str]) -> tuple[dict[str, Tensor], Tensor]:
    """`backends.Backend.forward`: a program for each row, or for each chunk of few long rows and then each row."""
    num_rows, num_columns = rows.num_rows, rows.num_columns
    fields, state = empty_results(logits, num_rows, outputs)
    if num_rows == 0:
        return fields, state
    _check_size(rows)
    base, stride, offsets, wide = _row_addresses(logits)
    constants = forward_constants(logits.dtype, outputs, wide, rows.softcap > 0)
    num_chunks = _cdiv(num_columns, LANES * constants["K"] * FORWARD_TILES)
    split = num_chunks > 1 and num_rows < SPLIT_BELOW_ROWS
    partials = state.new_empty((num_rows, num_chunks, 8, LANES)) if split else None
    temperatures, temperature = rows.split_temperature

    def launch(stage: str, programs: int) -> None:
        forward_kernel[(programs,)](
            base, offsets, rows.targets, temperatures,
            *(fields.get(name) for name in FIELDS),
            state, partials, stride, num_rows, num_columns, LOG2E.value / temperature, rows.softcap, num_chunks,
            STAGE=stage, **constants,
        )  # fmt: skip

    with _device_of(logits):
        if split:
            launch("chunk", num_rows * num_chunks)
            launch("fold", num_rows)
        else:
            launch("row", num_rows)
    return fields, state


def backward(grad_logits: Tensor, grads: dict[str, Tensor], logits: Tensor, rows: Rows, row_state: Tensor) -> None:
    """`backends.Backend.backward`: a program for each chunk of each row."""
    num_rows, num_columns = rows.num_rows, rows.num_columns
    if num_columns < logits.shape[-1]:
        grad_logits[..., num_columns:] = 0
    if num_rows == 0:
        return
    base, stride, offsets, wide = _row_addresses(logits)
    grad_base, grad_stride, grad_offsets, grad_wide = _row_addresses(grad_logits)
    constants = backward_constants(logits.dtype, wide and grad_wide, rows.softcap > 0)
    num_chunks = _cdiv(num_columns, constants["BLOCK"] * BACKWARD_TILES)
    temperatures, temperature = rows.split_temperature
    with _device_of(logits):
        backward_kernel[(num_rows * num_chunks,)](
            grad_base, base, offsets, rows.targets, temperatures,
            *(grads.get(name) for name in FIELDS if name != "top_probs"),
            row_state, grad_offsets, stride, grad_stride, num_rows, num_columns, LOG2E.value / temperature,
            rows.softcap, num_chunks, **constants,
        )  # fmt: skip


def grpo(
    grad_logits: Tensor,
    logits: Tensor,
    rows: Rows,
    outputs: Sequence[str],
    loss_rows: LossRows,
    options: LossOptions,
) -> tuple[dict[str, Tensor], TokenTerms]:
    """`backends.FusedLoss`: a program reads a row, and writes its gradient while the row is in the L2 cache."""
    num_rows, num_columns = rows.num_rows, rows.num_columns
    if num_rows < SPLIT_BELOW_ROWS and num_columns > LANES * 16 // logits.element_size() * FORWARD_TILES:
        # Rows too few to fill the device, and long: better split, as forward and backward do.
        fields, row_state = forward(logits, rows, outputs)
        terms = token_terms(fields, loss_rows, options)
        backward(grad_logits, terms.grads, logits, rows, row_state)
        return fields, terms
    _check_size(rows)
    if num_columns < logits.shape[-1]:
        grad_logits[..., num_columns:] = 0
    base, stride, offsets, wide = _row_addresses(logits)
    grad_base, grad_stride, grad_offsets, grad_wide = _row_addresses(grad_logits)
    constants = grpo_constants(logits.dtype, num_columns, outputs, options, wide, grad_wide, rows.softcap > 0)
    temperatures, temperature = rows.split_temperature
    names = [*outputs, "loss"] + (["kl"] if loss_rows.ref_logprob is not None else [])
    results = {name: logits.new_empty(num_rows, dtype=torch.float32) for name in names}
    clipped = logits.new_empty(num_rows, dtype=torch.bool)
    with _device_of(logits):
        grpo_kernel[(_programs_in_cache(logits, num_columns),)](
            grad_base, base, offsets, grad_offsets, rows.targets, temperatures,
            *loss_rows, *(results.get(name) for name in ("loss", *DEFAULT_OUTPUTS, "kl")), clipped.view(torch.int8),
            stride, grad_stride, num_rows, num_columns, LOG2E.value / temperature, rows.softcap,
            _cdiv(num_columns, LANES * constants["K"] * FORWARD_TILES),
            1 - options.epsilon_low, 1 + options.epsilon_high, options.delta, options.beta, options.entropy_coef,
            options.self_certainty_coef, **constants,
        )  # fmt: skip
    fields = {name: results[name] for name in outputs}
    return fields, TokenTerms(results["loss"], results.get("kl"), clipped, {})


def scale_unless_one(tensor: Tensor, factor: Tensor) -> None:
    """Multiply in place by a number () on the same device, which need not be known here."""
    if not tensor.is_contiguous():
        tensor.mul_(factor)
    elif tensor.numel():
        with _device_of(tensor):
            scale_kernel[(_cdiv(tensor.numel(), SCALE_BLOCK),)](
                tensor, factor, tensor.numel(), BLOCK=SCALE_BLOCK, num_warps=8
            )


def row_maximum(row_state: Tensor, rows: Rows) -> Tensor:
    """The largest z of each row, (N,) float64.

    The state has it in units of log 2, but for the rows that needed guards (n < 0): there it is the largest logit.
    """
    state = RowState(*row_state)
    m = state.m.double()
    return torch.where(state.n < 0, m / rows.flat_temperature, m / LOG2E.value)


def _check_size(rows: Rows) -> None:
    if rows.num_columns > MAX_COLUMNS or rows.num_rows > MAX_ROWS:
        raise ValueError(
            f"logits has {rows.num_rows} rows of {rows.num_columns} columns to read; expected at most {MAX_ROWS} of "
            f"{MAX_COLUMNS}"
        )


def _programs_in_cache(logits: Tensor, num_columns: int) -> int:
    """How many programs of the fused loss to launch, each with one row under way: as many as the L2 cache holds."""
    num_rows = logits.numel() // logits.shape[-1]
    if logits.device.type != "cuda":
        return min(num_rows, 2)  # the interpreter runs them one by one
    properties = torch.cuda.get_device_properties(logits.device)
    rows = int(L2_SHARE * properties.L2_cache_size / (num_columns * logits.element_size()))
    return min(num_rows, max(rows, properties.multi_processor_count))


def _row_addresses(tensor: Tensor) -> tuple[Tensor, int, Tensor | None, bool]:
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


def _cdiv(number: int, divisor: int) -> int:
    """`triton.cdiv`, which a tracer of constants wraps: a hundred times the work."""
    return -(-number // divisor)


def _device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device, which need not be the tensor's. The interpreter has no devices."""
    if tensor.device.type == "cpu":
        return nullcontext()
    return torch.get_device_module(tensor.device).device(tensor.device)
