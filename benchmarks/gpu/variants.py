"""Part `variants`: the launches that could be better than those of the table, timed in turn at the shapes of models.

A variant changes how a kernel is launched and never its bits: one whose results differ from the table's is named, and
not timed. `benchmarks.gpu.apply` turns what was fastest into entries of the table.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks import timing
from benchmarks.gpu.part import Task
from benchmarks.memory import describe_error
from rlif_kernels import grpo_loss, token_stats
from rlif_kernels.backends.triton import launches
from rlif_kernels.backends.triton.launches import DESCRIPTOR

# What is launched as the table says.
TABLE = "the table's"


@dataclass(frozen=True)
class Variant:
    """Choices laid over the table's, for one kernel."""

    kernel: str
    choices: dict[str, Any] = field(hash=False)

    def __str__(self) -> str:
        return f"{self.kernel}: " + ", ".join(f"{name} = {value}" for name, value in self.choices.items())


# Registers are upper bounds, as compiled for sm_90 (`tests/benchmarks/gpu` holds them): the plan counts on them.
VARIANTS: dict[str, tuple[Variant, ...]] = {
    "forward": (
        Variant("forward", {"num_stages": 2, "unroll": 1}),
        Variant("forward", {"num_stages": 3, "unroll": 1}),
        Variant("forward", {"num_stages": 4, "unroll": 1}),
        Variant("forward", {"load": "evict_first"}),
        Variant("forward", {"num_stages": 3, "unroll": 1, "load": "evict_first"}),
        Variant("forward", {"num_stages": 3, "unroll": 1, "load": DESCRIPTOR}),
        Variant("forward", {"num_warps": 8, "unroll": 2}),
        Variant("forward_part", {"num_stages": 3, "registers": 112}),
        Variant("forward_part", {"num_stages": 3, "registers": 112, "load": DESCRIPTOR}),
        Variant("forward_part", {"load": "evict_first"}),
        Variant("forward", {"slices": 0}),
        Variant("forward", {"slices": 1}),
        Variant("forward", {"slices": 2}),
        Variant("forward", {"slices": 4}),
    ),
    "backward": (
        Variant("backward", {"store": "evict_first"}),
        Variant("backward", {"second_load": "evict_first"}),
        Variant("backward", {"second_load": "evict_first", "store": "evict_first"}),
        Variant("backward", {"tiles": 1}),
        Variant("backward", {"tiles": 2}),
        Variant("backward", {"tiles": 8}),
        Variant("backward", {"num_warps": 8, "block_bytes": 16384}),
        Variant("backward", {"num_stages": 3}),
    ),
    "loss": (
        Variant("grpo", {"path": "pair"}),
        Variant("grpo", {"path": "fused"}),
        Variant("grpo", {"load": "", "second_load": "", "store": ""}),
        Variant("grpo_short", {"load": "", "second_load": "", "store": ""}),
        Variant("grpo", {"second_load": "", "store": ""}),
        Variant("grpo", {"num_stages": 3}),
        Variant("grpo_short", {"num_stages": 3}),
        Variant("grpo", {"num_stages": 3, "load": DESCRIPTOR}),
        Variant("grpo_short", {"num_stages": 3, "load": DESCRIPTOR}),
    ),
}
# The most telling first. Rows that fill the device, and rows that do not.
SHAPES = tuple((rows, columns) for columns in (151936, 32000, 128256, 262144) for rows in (8192, 64, 1024))
DTYPES = (torch.bfloat16, torch.float32)
TINY_SHAPES, TINY_DTYPES = ((1, 300),), (torch.float32,)
TINY_VARIANTS = 1
SECONDS = 0.6
# Most of the time goes into compiling: rows that are split and rows that are not, in several processes at once.
PROCESSES = 8
COMPILED_ROWS, COMPILED_COLUMNS = (2048, 64), 32000
COMPILE_SHARE = 0.4


def measure(task: Task) -> None:
    """Fill in, for every shape and each of the calls that there is time for, the times of all variants."""
    task.found |= {"architecture": architecture(task.device), "entries": [], "missing": {}, "skipped": []}
    if not task.tiny:
        compile_all(task)
    for dtype in TINY_DTYPES if task.tiny else DTYPES:
        for rows, columns in TINY_SHAPES if task.tiny else SHAPES:
            for op, variants in VARIANTS.items():
                label = f"{op}, {rows} x {columns}, {dtype_name(dtype)}"
                if task.left() < 2 * SECONDS:
                    task.found["skipped"].append(label)
                    continue
                try:
                    tried = variants[:TINY_VARIANTS] if task.tiny else offered(variants, task.device)
                    task.found["entries"].append(time_variants(op, rows, columns, dtype, tried, task))
                except Exception as error:  # for want of memory, say: it costs no other shape
                    task.found["missing"][label] = describe_error(error)
                task.save()


def compile_all(task: Task) -> None:
    """Call every variant once, in several processes: a kernel that one has compiled the others find on the disk.

    What a call raises is found again when the variant's turn comes.
    """
    jobs = [
        (op, variant, rows, COMPILED_COLUMNS, dtype, task.device)
        for dtype in DTYPES
        for op, variants in VARIANTS.items()
        for variant in (None, *offered(variants, task.device))
        for rows in COMPILED_ROWS
    ]
    pool = multiprocessing.get_context("spawn").Pool(PROCESSES)
    started = time.monotonic()
    try:
        pool.starmap_async(compile_one, jobs, chunksize=1).get(timeout=COMPILE_SHARE * task.left())
    except multiprocessing.TimeoutError:
        task.found["compiled"] = "not all in time"
    finally:
        pool.terminate()
    task.found["compile_seconds"] = round(time.monotonic() - started, 1)


def compile_one(op: str, variant: Variant | None, rows: int, columns: int, dtype: torch.dtype, device: str) -> None:
    with suppress(Exception):
        launched(CALLS[op](rows, columns, dtype, device), variant)


def offered(variants: tuple[Variant, ...], device: str) -> tuple[Variant, ...]:
    """Those that a device has the hardware for: descriptors are worth their while from Hopper on."""
    name = architecture(device)
    has_descriptors = name.startswith("sm_") and int(name.removeprefix("sm_")) >= 90
    return tuple(each for each in variants if has_descriptors or each.choices.get("load") != DESCRIPTOR)


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def architecture(device: str) -> str:
    """As entries of the table name it."""
    if device == "cpu":
        return "cpu"
    if torch.version.hip:
        return torch.cuda.get_device_properties().gcnArchName.split(":")[0]
    return "sm_{}{}".format(*torch.cuda.get_device_capability())


def time_variants(
    op: str, rows: int, columns: int, dtype: torch.dtype, variants: tuple[Variant, ...], task: Task
) -> dict[str, Any]:
    """An entry of the results: milliseconds of each variant by its name, and which is fastest."""
    call = CALLS[op](rows, columns, dtype, task.device)
    expected = [value.clone() for value in call()]
    entry: dict[str, Any] = {
        "op": op, "rows": rows, "columns": columns, "dtype": dtype_name(dtype), "variants": {}, "missing": {},
    }  # fmt: skip
    calls: dict[str, Callable[[], object]] = {TABLE: call}
    for variant in variants:
        try:
            found = launched(call, variant)
        except Exception as error:  # the compiler may refuse it
            entry["missing"][str(variant)] = describe_error(error)
            continue
        if not all(torch.equal(*pair) for pair in zip(found, expected, strict=True)):
            entry["missing"][str(variant)] = "its bits differ from the table's"
            continue
        entry["variants"][str(variant)] = {"kernel": variant.kernel, "choices": variant.choices}
        calls[str(variant)] = partial(launched, call, variant)
    times: dict[str, list[float]] = {}
    timing.in_turn(calls, SECONDS, task.device, times, rounds=(1, 1) if task.tiny else (5, 30))
    entry["milliseconds"] = {name: timing.spread(values) for name, values in times.items()}
    medians = {name: each["median"] for name, each in entry["milliseconds"].items()}
    entry["best"] = min(medians, key=medians.__getitem__)
    entry["gain"] = medians[TABLE] / medians[entry["best"]]
    return entry


def launched(call: Callable[[], list[Tensor]], variant: Variant | None) -> list[Tensor]:
    with launches.override(variant.kernel, **variant.choices) if variant else nullcontext():
        return call()


def forward_call(rows: int, columns: int, dtype: torch.dtype, device: str) -> Callable[[], list[Tensor]]:
    logits, targets = inputs(rows, columns, dtype, device)

    def call() -> list[Tensor]:
        with torch.no_grad():
            return [value for value in token_stats(logits, targets, backend="triton") if value is not None]

    return call


def backward_call(rows: int, columns: int, dtype: torch.dtype, device: str) -> Callable[[], list[Tensor]]:
    logits, targets = inputs(rows, columns, dtype, device)
    logits.requires_grad_()
    stats = [value for value in token_stats(logits, targets, backend="triton") if value is not None]
    upstream = [torch.randn_like(value) for value in stats]
    return lambda: list(torch.autograd.grad(stats, logits, upstream, retain_graph=True))


def loss_call(rows: int, columns: int, dtype: torch.dtype, device: str) -> Callable[[], list[Tensor]]:
    """The forward, which makes the gradient too, and the backward, which hands it out."""
    logits, targets = inputs(rows, columns, dtype, device)
    logits.requires_grad_()
    shape = (rows, 1)  # completions of one token
    advantages = torch.randn(rows, device=device)

    def call() -> list[Tensor]:
        result = grpo_loss(logits.view(*shape, columns), targets.view(shape), advantages, backend="triton")
        return [result.loss.detach(), *torch.autograd.grad(result.loss, logits)]

    return call


def inputs(rows: int, columns: int, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    logits = torch.empty(rows, columns, dtype=dtype, device=device).normal_(std=3)
    return logits, torch.randint(columns, (rows,), device=device)


CALLS: dict[str, Callable[[int, int, torch.dtype, str], Callable[[], list[Tensor]]]] = {
    "forward": forward_call,
    "backward": backward_call,
    "loss": loss_call,
}
