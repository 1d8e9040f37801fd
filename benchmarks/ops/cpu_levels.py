"""Suite `levels`: the C kernels beside eager PyTorch, torch.compile and TRL, at each instruction set of this machine.

    python -m benchmarks levels                          # every level, each in a process of its own
    RLIF_CPU_LEVEL=x86-64-v3 ATEN_CPU_CAPABILITY=avx2 python -m benchmarks.ops.cpu_levels [--seconds 10]

The second is one level: the first variable is of `rlif_kernels.backends.c.build`, the other tells torch, and the code
that torch.compile writes, what to use; so a machine with AVX-512 compares as one without would. `token_stats` is timed
on all threads at four shapes and one of few columns; both ops on one thread in the shape of `make bench-gate`. A ratio
is the median over rounds of eager's time over each one's in the same round.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks import timing
from benchmarks.ops.implementations import IMPLEMENTATIONS
from benchmarks.ops.problems import OPS, Call, OpProblem, make_problem
from benchmarks.ops.shapes import logits
from benchmarks.runner import Options, Step
from rlif_kernels.backends.c.build import found

# Environment variables that choose a level, by its name. The first is the machine's own.
LEVELS: dict[str, dict[str, str]] = {"native": {}}
if torch.backends.cpu.get_cpu_capability() == "AVX512":
    LEVELS["AVX2"] = {"RLIF_CPU_LEVEL": "x86-64-v3", "ATEN_CPU_CAPABILITY": "avx2"}
SECONDS = {"full": 10.0, "quick": 2.0, "tiny": 0.0}

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


def steps(options: Options) -> list[Step]:
    """Return a step for each level. It is for a CPU: on a GPU the C kernels serve nobody."""
    seconds = SECONDS[options.size]
    return [Step(name, 30 + 15 * seconds, partial(add_level, name, seconds)) for name in LEVELS]


def add_level(name: str, seconds: float, results: dict[str, Any]) -> str:
    """Measure a level in a process that has its variables from the start."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "level.json"
        words = ("-m", "benchmarks.ops.cpu_levels", "--seconds", str(seconds), "--output", str(output))
        ended = subprocess.run([sys.executable, *words], env=os.environ | LEVELS[name], capture_output=True, text=True)
        if ended.returncode:
            last = (ended.stderr.strip() or "no word").splitlines()[-1]
            raise RuntimeError(f"the process of level {name} ended with exit code {ended.returncode}: {last}")
        entry = json.loads(output.read_text()) | {"level": name}
    results["entries"].append(entry)
    return ", ".join(f"{case['speed_up']['rlif']:.1f}x" for case in entry["cases"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10, help="of timing, a case; default 10")
    parser.add_argument("--output", type=Path, help="write all of it there, as JSON")
    options = parser.parse_args()
    level = found()
    if level.library is None:
        sys.exit(f"there are no C kernels to measure: {level.reason.splitlines()[0]}")
    print(level.reason)
    threads, cases = torch.get_num_threads(), []
    for op, shape, chosen in CASES:
        torch.set_num_threads(chosen or threads)
        times: dict[str, list[float]] = {}
        timing.in_turn(compared_calls(op, make_problem(shape)), options.seconds, "cpu", times)
        speed_up, milliseconds = ratios(times), {name: timing.spread(each) for name, each in times.items()}
        shown = (f"{name} {milliseconds[name]['median']:.2f} ms {speed_up[name]:.2f}x" for name in times)
        print(f"{op}, {shape}, {torch.get_num_threads()} threads: {', '.join(shown)}", flush=True)
        case = {"op": op, "shape": str(shape), "threads": torch.get_num_threads()}
        cases.append({**case, "speed_up": speed_up, "milliseconds": milliseconds})
    if options.output:
        torch_uses = torch.backends.cpu.get_cpu_capability()
        results = {"library": level.reason.split(", ")[0], "torch": torch_uses, "cases": cases}
        options.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
