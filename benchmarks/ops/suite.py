"""Suite `ops`: time, share of the floor, error and peak memory of every op, ours beside plain PyTorch and peers.

All implementations of an op get the same tensors. Each is compared with float64 first; one that is wrong is named so
and not timed. Those that are right are timed in turn, a call of each a round, together with the floors: a read and a
copy of the same bytes, or the bare matrix products.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks import timing
from benchmarks.machine import free_bytes
from benchmarks.memory import RESETS_PEAK, describe_error, in_fresh_process, map_every_block, rise_of_peak
from benchmarks.ops.floor import floors
from benchmarks.ops.implementations import IMPLEMENTATIONS, Implementation
from benchmarks.ops.problems import BASELINE, OPS, TOLERANCE, Call, Shape, Truth, exact, make_problem
from benchmarks.ops.shapes import fitted, plan
from benchmarks.runner import Options, Step


def steps(options: Options) -> list[Step]:
    chosen = plan(options.device, options.size)
    memory_seconds = 25 if (options.device, options.size) == ("cpu", "full") else 12
    free = free_bytes(options.device)

    def fitting(shapes: dict[str, tuple[Shape, ...]]) -> list[tuple[int, str, Shape]]:
        return [
            (number, op, shape)
            for op, wanted in shapes.items()
            for number, shape in enumerate(dict.fromkeys(fitted(op, each, free) for each in wanted))
        ]

    timed = [
        (number, Step(f"{op}, {shape}", 2.5 * chosen.seconds + 5, partial(_time, options, op, shape, chosen.seconds)))
        for number, op, shape in fitting(chosen.timed)
    ]
    memory = [
        Step(f"memory of {op}, {shape}", memory_seconds, partial(_memory, options, op, shape))
        for _, op, shape in fitting(chosen.memory)
    ]
    # What short tables show comes first, in case that there is no time for the rest.
    return [step for number, step in timed if number == 0] + memory + [step for number, step in timed if number > 0]


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
    """Make a place in the results, there from the beginning, so that an interruption loses nothing."""
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
    return time_op(candidates(op_name, options), options.device, op_name, shape, seconds, results)


def time_op(
    implementations: list[Implementation],
    device: str,
    op_name: str,
    shape: Shape,
    seconds: float,
    results: dict[str, Any],
) -> str:
    """Add an entry for a shape of an op to the results: errors, then times in turn; returns a line about it."""
    op = OPS[op_name]
    if device == "cuda":
        torch.cuda.empty_cache()  # blocks of the last shape's sizes
    problem = make_problem(shape, device)
    truths: dict[tuple[str, ...], Truth] = {}
    entry = new_entry("time", op_name, shape, results)
    right: dict[str, Call] = {}
    for implementation in implementations:
        name = implementation.name
        try:
            call = implementation.call(op, problem)
            if call.op.outputs not in truths:
                truths[call.op.outputs] = exact(call.op, problem, rows=64 if device == "cpu" else 512)
            errors = call.errors(truths[call.op.outputs])
        except Exception as error:  # whatever a peer raises, out of memory included
            give_up(implementation, describe_error(error), entry, results)
            continue
        entry["implementations"][name] = {
            "package": implementation.package,
            "composed": implementation.composed,
            "output_error": errors[0],
            "gradient_error": errors[1],
            "wrong": not max(errors) <= TOLERANCE[shape.dtype],
        }
        if not entry["implementations"][name]["wrong"]:
            right[name] = call
    time_all(right, floors(op, problem), device, seconds, entry)
    return summarise_entry(entry)


def time_all(
    right: dict[str, Call],
    floors: dict[str, Callable[[], object]],
    device: str,
    seconds: float,
    entry: dict[str, Any],
) -> None:
    """Fill in times of forward and of forward and backward, in milliseconds, with the floors of the same rounds."""

    def prepare(name: str) -> None:
        for call in right.values():
            call.problem.clear_gradients()
        if name in right:
            right[name].restore()

    for phase, share in (("forward", 0.35), ("forward_backward", 0.65)):
        calls = {f"floor: {name}": floor for name, floor in floors.items()}
        calls |= {name: getattr(call, phase) for name, call in right.items()}
        if phase == "forward":  # forward and backward have run once, to be checked
            for name, function in calls.items():
                prepare(name)
                function()
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


def summarise_entry(entry: dict[str, Any]) -> str:
    """Return one line for the terminal: the median of each, forward and backward."""
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

    On a CPU it is to be run in a process of its own.
    """
    map_every_block()
    op = OPS[op_name]
    (implementation,) = [each for each in IMPLEMENTATIONS[op_name] if each.name == name]
    # What the first call of anything allocates for good (thread pools, compiled code) is not the op's. A small call
    # will do, but compiled code is made for one shape.
    small = dataclasses.replace(shape, length=min(shape.length, 4), vocab_size=min(shape.vocab_size, 1000))
    warm_up = shape if implementation.compiled or device == "cuda" else small
    call = implementation.call(op, make_problem(warm_up, device))
    call.forward()
    call.forward_backward()
    problem = make_problem(shape, device)
    call = dataclasses.replace(call, problem=problem.padded() if implementation.padded_logits else problem)
    del problem
    forward = rise_of_peak(call.forward, device)
    both = rise_of_peak(call.forward_backward, device)
    return {"forward_bytes": forward, "forward_backward_bytes": both - call.problem.gradient_bytes}
