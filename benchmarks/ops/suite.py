"""Suite `ops`: time, share of the floor, error and peak memory of every op, ours beside plain PyTorch and peers.

All implementations of an op get the same tensors. Each is compared with float64 first; one that is wrong is named so
and not timed. Those that are right are timed in turn, a call of each a round, together with the floors: a read and a
copy of the same bytes, or the bare matrix products.
"""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import timing
from benchmarks.fresh_process import describe_error, in_fresh_process
from benchmarks.ops.implementations import IMPLEMENTATIONS, Implementation
from benchmarks.machine import free_bytes
from benchmarks.memory import rise_of_peak as rise_of_resident_peak
from benchmarks.ops.peers import Function
from benchmarks.ops.problems import (
    LOSS,
    OPS,
    TOLERANCE,
    Problem,
    Shape,
    Truth,
    exact,
    gradient_error,
    make_problem,
    output_error,
)
from benchmarks.runner import Options, Step
from benchmarks.ops.shapes import LOSS_COPIES, STATISTICS_COPIES, fitted, plan
from rlif_kernels.backends.c.build import library

BASELINE = "eager"
RESETS_PEAK = Path("/proc/self/clear_refs")


def steps(options: Options) -> list[Step]:
    chosen = plan(options.device, options.size)
    memory_seconds = 25 if (options.device, options.size) == ("cpu", "full") else 12
    free = free_bytes(options.device)
    timed = [
        (number, Step(f"{op}, {shape}", 2.5 * chosen.seconds + 5, partial(_time, options, op, shape, chosen.seconds)))
        for op, shapes in chosen.timed.items()
        for number, shape in enumerate(dict.fromkeys(fitted(each, free, copies(op)) for each in shapes))
    ]
    memory = [
        Step(f"memory of {op}, {shape}", memory_seconds, partial(_memory, options, op, shape))
        for op, shapes in chosen.memory.items()
        for shape in dict.fromkeys(fitted(each, free, copies(op)) for each in shapes)
    ]
    # What short tables show comes first, in case that there is no time for the rest.
    return [step for number, step in timed if number == 0] + memory + [step for number, step in timed if number > 0]


def copies(op: str) -> int:
    return LOSS_COPIES if OPS[op].outputs == LOSS else STATISTICS_COPIES


def candidates(op: str, options: Options) -> list[Implementation]:
    """Who takes part. A tiny run compiles nothing: it is to show in seconds that the rest works."""
    return [
        each
        for each in IMPLEMENTATIONS[op]
        if options.device in each.devices
        and options.allows(each.package)
        and not (options.size == "tiny" and each.compiled)
    ]


def new_entry(kind: str, op: str, shape: Shape, results: dict[str, Any]) -> dict[str, Any]:
    """A place in the results, there from the beginning, so that an interruption loses nothing."""
    entry: dict[str, Any] = {
        "kind": kind,
        "op": op,
        "title": OPS[op].title,
        "rows": shape.rows,
        "columns": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "dtype": shape.dtype,
        "logits_bytes": shape.logits_bytes,
        "implementations": {},
        "missing": {},
    }
    results["entries"].append(entry)
    return entry


def give_up(implementation: Implementation, reason: str, entry: dict[str, Any], results: dict[str, Any]) -> None:
    """The others go on; the entry and the results say who did not, and why."""
    entry["missing"][implementation.name] = reason
    entry["implementations"].pop(implementation.name, None)
    results["missing"][f"{implementation.name}: {entry['op']}"] = reason


# --- time and error


def _time(options: Options, op_name: str, shape: Shape, seconds: float, results: dict[str, Any]) -> str:
    op = OPS[op_name]
    if options.device == "cuda":
        torch.cuda.empty_cache()  # blocks of the last shape's sizes
    problem = make_problem(shape, options.device)
    truth = exact(op, problem, rows=64 if options.device == "cpu" else 512)
    entry = new_entry("time", op_name, shape, results)
    right: list[Contender] = []
    for implementation in candidates(op_name, options):
        try:
            given = problem.padded() if implementation.padded_logits else problem
            contender = Contender(implementation, implementation.build(), given, restoring(implementation, given))
            described = check(contender, op_name, truth, shape.dtype)
        except Exception as error:  # whatever a peer raises, out of memory included
            give_up(implementation, describe_error(error), entry, results)
            continue
        entry["implementations"][implementation.name] = described
        if not described["wrong"]:
            right.append(contender)
    time_all(op_name, right, problem, options.device, seconds, entry)
    return summary(entry)


@dataclasses.dataclass(frozen=True)
class Contender:
    """An implementation that was built, and what it is given."""

    implementation: Implementation
    function: Function
    problem: Problem
    restore: Callable[[], object]
    """Puts back what the last call has overwritten."""


def restoring(implementation: Implementation, problem: Problem) -> Callable[[], object]:
    """What puts the logits back after a call that has overwritten them."""
    if not implementation.overwrites_logits:
        return lambda: None
    logits = problem.leaves[0].detach()
    kept = logits.clone()
    return lambda: logits.copy_(kept)


def check(contender: Contender, op_name: str, truth: Truth, dtype: str) -> dict[str, Any]:
    """Run it once, which warms it up as well, and compare outputs and gradients with float64."""
    op, problem = OPS[op_name], contender.problem
    try:
        outputs = contender.function(problem)
        problem.objective(op, outputs).backward()
        errors = output_error(outputs, truth), gradient_error(problem, truth)
    finally:
        problem.clear_gradients()
        contender.restore()
    return {
        "package": contender.implementation.package,
        "composed": contender.implementation.composed,
        "output_error": errors[0],
        "gradient_error": errors[1],
        "wrong": not max(errors) <= TOLERANCE[dtype],
    }


def time_all(
    op_name: str, contenders: list[Contender], problem: Problem, device: str, seconds: float, entry: dict[str, Any]
) -> None:
    """Fill in times of forward and of forward and backward, in milliseconds, with the floors of the same rounds."""
    op = OPS[op_name]
    by_name = {each.implementation.name: each for each in contenders}

    def forward(contender: Contender) -> None:
        with torch.no_grad():
            contender.function(contender.problem)

    def forward_backward(contender: Contender) -> None:
        contender.problem.objective(op, contender.function(contender.problem)).backward()

    def prepare(name: str) -> None:
        for each in contenders:
            each.problem.clear_gradients()
        if name in by_name:
            by_name[name].restore()

    floor = floors(op_name, problem)
    for phase, run, share in (("forward", forward, 0.35), ("forward_backward", forward_backward, 0.65)):
        calls: dict[str, Callable[[], object]] = {f"floor: {name}": call for name, call in floor.items()}
        calls |= {name: partial(run, contender) for name, contender in by_name.items()}
        if phase == "forward":  # forward and backward have run once, to be checked
            for name, call in calls.items():
                prepare(name)
                call()
        times: dict[str, list[float]] = {}
        try:
            timing.in_turn(calls, share * seconds, device, times, prepare)
        finally:
            prepare("")
            record_times(entry, phase, times)


def record_times(entry: dict[str, Any], phase: str, times: dict[str, list[float]]) -> None:
    """Spread of the times, and of the speed-up over the baseline in the same round."""
    for name, values in times.items():
        if name.startswith("floor: "):
            floor = entry.setdefault("floors", {}).setdefault(name.removeprefix("floor: "), {})
            floor[phase] = timing.spread(values)
            continue
        described = entry["implementations"][name]
        described[phase] = timing.spread(values)
        if BASELINE in times:
            ratios = [base / value for base, value in zip(times[BASELINE], values, strict=False)]
            described[f"{phase}_speedup"] = timing.spread(ratios)


def floors(op_name: str, problem: Problem) -> dict[str, Callable[[], object]]:
    """What nobody can do without: to read and write the logits, or the products of the head."""
    if not OPS[op_name].head:
        given = problem.leaves[0].detach()
        # As float32, whatever it is: bfloat16 would be bound by its conversion on a CPU.
        words = given.view(torch.float32) if given.shape[-1] * given.element_size() % 4 == 0 else given
        return {"read": words.sum, "copy": partial(copy_into_new_memory, given)}
    hidden, weight = (leaf.detach() for leaf in problem.leaves)
    hidden = hidden.flatten(0, 1)
    made = torch.empty(len(hidden), len(weight), dtype=hidden.dtype, device=hidden.device).normal_()
    d_hidden, d_weight = torch.empty_like(hidden), torch.empty_like(weight)
    return {
        "logits": lambda: torch.mm(hidden, weight.T, out=made),
        "hidden gradient": lambda: torch.mm(made, weight, out=d_hidden),
        "weight gradient": lambda: torch.mm(made.T, hidden, out=d_weight),
    }


def copy_into_new_memory(source: Tensor) -> Tensor:
    """A copy where everybody's gradient goes. A CPU hands memory out page by page: the largest pages cost least."""
    copied = torch.empty_like(source)
    kernels = library() if source.device.type == "cpu" else None
    if kernels is not None:
        kernels.rlif_expect_writes(ctypes.c_void_p(copied.data_ptr()), ctypes.c_int64(copied.nbytes))
    return copied.copy_(source)


def summary(entry: dict[str, Any]) -> str:
    """One line for the terminal: the median of each, forward and backward."""
    parts = [
        f"{name} {described['forward_backward']['median']:.3g} ms"
        if "forward_backward" in described
        else f"{name} is wrong (errors {described['output_error']:.0e}, {described['gradient_error']:.0e})"
        for name, described in entry["implementations"].items()
    ]
    return "; ".join([*parts, *(f"{name} missing ({reason})" for name, reason in entry["missing"].items())])


# --- memory


def _memory(options: Options, op_name: str, shape: Shape, results: dict[str, Any]) -> str:
    entry = new_entry("memory", op_name, shape, results)
    if options.device == "cpu" and not RESETS_PEAK.exists():
        raise RuntimeError(f"the peak of resident memory is reset by {RESETS_PEAK}, which only Linux has")
    parts = []
    for implementation in candidates(op_name, options):
        arguments = (op_name, implementation.name, shape, options.device)
        try:
            measured = peak(*arguments) if options.device == "cuda" else in_fresh_process(peak, *arguments)
        except Exception as error:
            give_up(implementation, describe_error(error), entry, results)
            parts.append(f"{implementation.name} missing")
        else:
            entry["implementations"][implementation.name] = {"package": implementation.package} | measured
            parts.append(f"{implementation.name} {measured['forward_backward_bytes'] / 1e6:.0f} MB")
    return "; ".join(parts)


def peak(op_name: str, name: str, shape: Shape, device: str) -> dict[str, float]:
    """Bytes above the inputs at the peak of the forward alone, and of forward and backward less the gradients.

    On a CPU resident memory, to be run in a process of its own; on a GPU what torch has allocated.
    """
    op = OPS[op_name]
    (implementation,) = [each for each in IMPLEMENTATIONS[op_name] if each.name == name]
    function = implementation.build()

    def forward(problem: Problem) -> None:
        with torch.no_grad():
            function(problem)

    def forward_backward(problem: Problem) -> None:
        problem.objective(op, function(problem)).backward()

    # What the first call of anything allocates for good (thread pools, compiled code) is not the op's. A small call
    # will do, but compiled code is made for one shape.
    small = dataclasses.replace(shape, length=min(shape.length, 4), vocab_size=min(shape.vocab_size, 1000))
    made = Problem.padded if implementation.padded_logits else lambda problem: problem
    warm_up = made(make_problem(shape if implementation.compiled or device == "cuda" else small, device))
    forward(warm_up)
    forward_backward(warm_up)
    del warm_up
    problem = made(make_problem(shape, device))
    rise = timing.rise_of_peak if device == "cuda" else rise_of_resident_peak
    forward_rise = rise(partial(forward, problem))
    both = rise(partial(forward_backward, problem))
    return {"forward_bytes": forward_rise, "forward_backward_bytes": both - problem.gradient_bytes}
