"""Peak memory of the head with the GRPO loss on it, forward and backward, each implementation in a fresh process.

    python -m benchmarks.memory [--quick] [--output benchmarks/results]

Peak resident memory above what the process held before: that is, above the inputs and the libraries. The gradients,
which every implementation must return, are taken off. Writes CORES-core-cpu-DATE-memory.json; Linux only.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.heads import ON_ANY_DEVICE, Loss, Problem, forward_backward, linear_grpo_loss, make_problem
from benchmarks.machine import describe

# (completions, tokens of each, vocabulary, hidden size): Llama 3's vocabulary; and one for the tests.
SHAPE = (16, 256, 128256, 512)
QUICK_SHAPE = (2, 64, 20000, 32)


def without_gradient(implementation: Loss, problem: Problem) -> None:
    with torch.no_grad():
        implementation(problem)


CASES: dict[str, tuple[Callable[[], Loss], Callable[[Loss, Problem], object]]] = {
    **{name: (build, forward_backward) for name, build in ON_ANY_DEVICE.items()},
    "rlif, linear_grpo_loss, tile_bytes of 64 MiB": (partial(linear_grpo_loss, tile_bytes=64 << 20), forward_backward),
    "rlif, linear_token_stats, forward only": (ON_ANY_DEVICE["rlif, linear_token_stats"], without_gradient),
}


def resident_bytes(field: str) -> int:
    """This process's resident memory: now (VmRSS), or its peak (VmHWM)."""
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


def rise_of_peak(function: Callable[[], object]) -> int:
    """Bytes by which resident memory rises at most while `function` runs, whatever was allocated and freed earlier."""
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is resident now
    before = resident_bytes("VmRSS")
    function()
    return resident_bytes("VmHWM") - before


def measure(name: str, shape: tuple[int, int, int, int]) -> dict[str, float]:
    """Peak above inputs and gradients, in bytes. To be run in a process of its own."""
    build, run = CASES[name]
    implementation = build()
    batch, length, vocab_size, hidden_size = shape
    # What the first call of anything allocates for good (thread pools, compiled code) is not the op's. A small call,
    # lest freed scratch serves again unseen; but compiled code is made for one V.
    warm_up_columns = vocab_size if name.startswith("compiled") else 1000
    run(implementation, make_problem(batch, length, warm_up_columns, hidden_size, torch.float32))
    problem = make_problem(batch, length, vocab_size, hidden_size, torch.float32)
    rise = rise_of_peak(lambda: run(implementation, problem))
    gradients = sum(leaf.grad.nbytes for leaf in (problem.hidden, problem.weight) if leaf.grad is not None)
    return {"extra_bytes": rise - gradients, "gradient_bytes": gradients}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small shape, to see that it works")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="directory to write to")
    parser.add_argument("--case", choices=CASES, help="measure this one here, and print it")
    arguments = parser.parse_args()
    if not Path("/proc/self/clear_refs").exists():
        parser.error("resetting the peak of resident memory needs Linux's /proc")
    shape = QUICK_SHAPE if arguments.quick else SHAPE
    if arguments.case:
        print(json.dumps(measure(arguments.case, shape)))
        return

    batch, length, vocab_size, hidden_size = shape
    results: dict[str, Any] = {
        "date": str(datetime.date.today()),
        "machine": describe(),
        "shape": {"tokens": batch * length, "vocab_size": vocab_size, "hidden_size": hidden_size, "dtype": "float32"},
        "logits_bytes": batch * length * vocab_size * 4,
        "implementations": {},
        "missing": {},
    }
    for name in CASES:
        command = [sys.executable, "-m", "benchmarks.memory", "--case", name, *(["--quick"] if arguments.quick else [])]
        process = subprocess.run(command, capture_output=True, text=True)
        if process.returncode:
            results["missing"][name] = process.stderr.strip().splitlines()[-1]
        else:
            results["implementations"][name] = json.loads(process.stdout.splitlines()[-1])
        print(name, results["implementations"].get(name) or results["missing"][name], flush=True)
    path = arguments.output / f"{results['machine']['cores']}-core-cpu-{results['date']}-memory.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
