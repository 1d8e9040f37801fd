"""The C kernels beside eager PyTorch, torch.compile and TRL, at one instruction set, in one interleaved run.

    python -m benchmarks.ops.cpu_levels [--seconds 5] [--output FILE.json]
    RLIF_CPU_LEVEL=x86-64-v3 ATEN_CPU_CAPABILITY=avx2 python -m benchmarks.ops.cpu_levels

The second compares as a machine without AVX-512 would: the first variable is of `rlif_kernels.backends.c.build`, the
other tells torch, and the code that torch.compile writes, to use AVX2. `token_stats` is timed on all threads at four
shapes and one of few columns; both ops on one thread in the shape of `make bench-gate`. A ratio is the median over
rounds of eager's time over each one's in the same round.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from benchmarks import timing
from benchmarks.machine import describe_machine
from benchmarks.ops.implementations import IMPLEMENTATIONS
from benchmarks.ops.problems import OPS, Call, OpProblem, make_problem
from benchmarks.ops.shapes import logits
from rlif_kernels.backends.c.build import found

COMPARED = ("eager", "torch.compile", "TRL", "rlif")
# Op, shape, threads (0: all).
CASES = (
    *(("token_stats", logits(1024, 32000, dtype), 0) for dtype in ("float32", "bfloat16")),
    ("token_stats", logits(64, 32000), 0),
    ("token_stats", logits(256, 151936, "bfloat16"), 0),
    ("token_stats", logits(256, 8000), 0),
    *(("token_stats", logits(256, 32000, dtype), 1) for dtype in ("float32", "bfloat16")),
    *(("grpo_loss", logits(256, 32000, dtype), 1) for dtype in ("float32", "bfloat16")),
)


def compared_calls(op: str, problem: OpProblem) -> dict[str, Callable[[], object]]:
    """Forward and backward of each implementation that is here, warmed up."""
    built: dict[str, Callable[[], object]] = {}
    for implementation in IMPLEMENTATIONS[op]:
        if implementation.name not in COMPARED:
            continue
        try:
            call = implementation.call(OPS[op], problem)
        except ImportError:
            continue

        def forward_backward(call: Call = call) -> None:
            call.problem.clear_gradients()
            call.forward_backward()

        forward_backward()
        built[implementation.name] = forward_backward
    return built


def ratios(times: dict[str, list[float]]) -> dict[str, float]:
    """Eager's time over that of each, the median over rounds."""
    return {
        name: median(eager / own for eager, own in zip(times["eager"], each, strict=True))
        for name, each in times.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5, help="of timing, a case; default 5")
    parser.add_argument("--output", type=Path, help="write all of it there, as JSON")
    options = parser.parse_args()
    levels = {name: os.environ.get(name) for name in ("RLIF_CPU_LEVEL", "ATEN_CPU_CAPABILITY")}
    print(levels, found().reason, sep="\n")
    threads, entries = torch.get_num_threads(), []
    for op, shape, chosen in CASES:
        torch.set_num_threads(chosen or threads)
        times: dict[str, list[float]] = {}
        timing.in_turn(compared_calls(op, make_problem(shape)), options.seconds, "cpu", times)
        speed_up, milliseconds = ratios(times), {name: timing.spread(each) for name, each in times.items()}
        shown = (f"{name} {milliseconds[name]['median']:.2f} ms {speed_up[name]:.2f}x" for name in times)
        print(f"{op}, {shape}, {torch.get_num_threads()} threads: {', '.join(shown)}", flush=True)
        case = {"op": op, "shape": str(shape), "threads": torch.get_num_threads()}
        entries.append({**case, "speed_up": speed_up, "milliseconds": milliseconds})
    if options.output:
        results = {
            "machine": describe_machine(),
            "levels": levels,
            "library": found().reason.split(", ")[0],
            "cases": entries,
        }
        options.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
