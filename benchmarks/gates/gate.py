"""What a change must not make worse: counts of the compiled kernels, memory, and speed beside the naive form.

The tests hold every change to the first two (`tests/benchmarks/gates`), `make bench-gate` to memory and speed.

- Counts of the compiled kernels are the same on every machine with the same Triton. Their baseline is the newest
  `results/*-static.json`; 3% are left for reorderings that gain elsewhere what they cost here.
- Bytes that torch allocates are the same on every machine as well (`memory.peak_allocated`), but for processors without
  AVX-512: there torch takes scratch to multiply bfloat16, and `gate.json` has another baseline. 5% and a page are left.
- Speed is the time of the naive form over ours, on one thread of one process, one call of each in turn: whoever else
  uses the machine slows both. Not quite alike, since one fills memory and the other mostly computes: with three
  neighbours that stream memory through two cores, single attempts were seen to fall to 0.52 of a quiet machine's
  speed-up. So 0.4 of the speed-up in `gate.json` is enough, in the best of several attempts. What became three times
  as slow fails each; what fell back to the naive form is seen by its memory as well.

`make bench-gate ARGS=--write-gate` takes what this machine gives as the new `gate.json`: after a change that was meant.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.machine import describe_machine
from benchmarks.memory import peak_allocated
from benchmarks.ops.implementations import naive, ours, plain
from benchmarks.ops.problems import OPS, Call, Shape, make_problem

GATE_FILE = Path(__file__).parent / "gate.json"
GATED = ("token_stats", "linear_token_stats", "grpo_loss", "linear_grpo_loss")
GATED_DTYPES = ("float32", "bfloat16")
NAMES = tuple(f"{op}, {dtype}" for op in GATED for dtype in GATED_DTYPES)
# Large enough for rows to leave the cache in the naive form, small enough for a few milliseconds.
SHAPE: dict[str, int] = {"tokens": 256, "vocab_size": 32000, "hidden_size": 64, "tile_bytes": 8 << 20}

ROUNDS = 5
ATTEMPTS = 3
SHARE_OF_SPEED_UP = 0.4
MEMORY_TOLERANCE = 0.05
PAGE = 4096
INSTRUCTION_TOLERANCE = 0.03
# The unit in which NVIDIA's hardware hands out registers to a thread.
REGISTER_TOLERANCE = 8


def calls(
    op_name: str, tokens: int, vocab_size: int, hidden_size: int, dtype: str = "float32", tile_bytes: int = 512 << 20
) -> tuple[Call, Call]:
    """The naive form and ours of an op, on tokens in completions of 32; hidden size and tile are those of a head."""
    op = OPS[op_name]
    problem = make_problem(Shape(tokens // 32, 32, vocab_size, hidden_size if op.head else 0, dtype))
    tile = {"tile_bytes": tile_bytes} if op.head else {}
    return Call(op, problem, plain(op, naive)), Call(op, problem, ours(op, **tile))


def calls_of(name: str) -> tuple[Call, Call]:
    """Return the calls of one of `NAMES`."""
    op, dtype = name.split(", ")
    return calls(op, **SHAPE, dtype=dtype)


@dataclass(frozen=True)
class Measured:
    """What the gate holds of one op in one dtype."""

    speed_up: float
    """Time of the naive form over ours."""
    extra_bytes: int
    """Allocated by ours beyond inputs and gradients."""


def extra_bytes(call: Call) -> int:
    """What ours allocates at most beyond inputs and gradients."""
    call.problem.clear_gradients()
    call.forward_backward()  # what the first call allocates for good is not the op's
    call.problem.clear_gradients()
    peak = peak_allocated(call.forward_backward)
    call.problem.clear_gradients()
    return peak - call.problem.gradient_bytes


def attempts(naive: list[float], ours: list[float]) -> list[float]:
    """The speed-up of each attempt, which is `ROUNDS` calls of each in turn."""
    parts = range(0, len(ours), ROUNDS)
    return [median(naive[start : start + ROUNDS]) / median(ours[start : start + ROUNDS]) for start in parts]


def slower(name: str, speed_ups: list[float], baseline: Measured) -> str | None:
    """None if one attempt reaches its share of the speed-up; else what was reached."""
    bound = SHARE_OF_SPEED_UP * baseline.speed_up
    if max(speed_ups) >= bound:
        return None
    return (
        f"{name}: {max(speed_ups):.2f} times as fast as the naive form in the best of {len(speed_ups)} attempts; "
        f"expected at least {bound:.2f}, {SHARE_OF_SPEED_UP} of what {GATE_FILE.name} has"
    )


def hungrier(name: str, call: Call, baseline: Measured) -> str | None:
    """None, or by how much the op's memory has grown."""
    measured = extra_bytes(call)
    if measured <= baseline.extra_bytes * (1 + MEMORY_TOLERANCE) + PAGE:
        return None
    return (
        f"{name}: {measured} bytes beyond inputs and gradients; {baseline.extra_bytes} in {GATE_FILE.name}. If that "
        f"was meant: make bench-gate ARGS=--write-gate"
    )


def larger(counts: dict[str, Any], baseline: dict[str, Any]) -> list[str]:
    """Which compiled kernels have got worse, and by how much.

    Args:
        counts, baseline: the entries of `benchmarks.gates.compiled.count_target` for the same kernel and target.
    """
    name = f"{counts['kernel']} on {counts['target']}"
    was, now = baseline["instructions"], counts["instructions"]
    found = []
    if was is not None and now > was * (1 + INSTRUCTION_TOLERANCE):
        found.append(f"{name}: {was:.2f} -> {now:.2f} instructions an element ({now / was - 1:+.0%})")
    for field, tolerance in (("registers", REGISTER_TOLERANCE), ("spills", 0), ("barriers", 0), ("shuffles", 0)):
        was, now = baseline[field], counts[field]
        if was is not None and now > was + tolerance:
            found.append(f"{name}: {was} -> {now} {field}")
    for field in ("load_bytes", "store_bytes"):
        was, now = baseline[field], counts[field]
        if was is not None and now < was:
            found.append(f"{name}: {field.removesuffix('_bytes')}s of {was} -> {now} bytes")
    was, now = baseline.get("in_flight"), counts.get("in_flight")
    if was is not None and now is not None and now < was:
        found.append(f"{name}: {was} -> {now} bytes under way in a multiprocessor")
    return found


def read_baseline() -> dict[str, Measured]:
    """By name, what `gate.json` has for a processor like this one."""
    gate = json.loads(GATE_FILE.read_text())
    others: dict[str, int] = gate["extra_bytes"].get(torch.backends.cpu.get_cpu_capability(), {})
    return {
        name: Measured(entry["speed_up"], others.get(name, entry["extra_bytes"])) for name, entry in gate["ops"].items()
    }


def write_baseline(name: str, measured: Measured) -> None:
    """Put one op's figures into `gate.json`, and what machine it is; where its kind has bytes of its own, those too."""
    gate = json.loads(GATE_FILE.read_text())
    gate["ops"][name] = asdict(measured)
    if name in (others := gate["extra_bytes"].get(torch.backends.cpu.get_cpu_capability(), {})):
        others[name] = measured.extra_bytes
    GATE_FILE.write_text(json.dumps(gate | {"machine": describe_machine(), "shape": SHAPE}, indent=1) + "\n")
