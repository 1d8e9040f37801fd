"""Suite `loop`: the whole training step, ours beside TRL's GRPOTrainer, each in a process of its own.

`benchmarks.steps.training_step` says what is trained and what is timed.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from functools import partial
from typing import Any

from benchmarks.runner import Options, Step
from benchmarks.steps.training_step import HALF_BILLION, IMPLEMENTATIONS, Workload

SIZES = {
    "full": Workload(),
    "quick": Workload(vocab_size=8000, num_layers=2, prompts=4, num_generations=4, max_completion_length=24, steps=3),
    "tiny": Workload(
        vocab_size=50, hidden_size=16, num_layers=1, prompts=2, num_generations=2, prompt_length=3,
        max_completion_length=4, steps=2,
    ),
}  # fmt: skip
PACKAGES = {"rlif": "rlif", "TRL": "trl"}


def steps(options: Options) -> list[Step]:
    workload = HALF_BILLION if options.device == "cuda" and options.size == "full" else SIZES[options.size]
    workload = dataclasses.replace(workload, device=options.device)
    names = [name for name in IMPLEMENTATIONS if options.allows(PACKAGES[name])]
    seconds = 30 if options.device == "cuda" else 60
    found = [Step(f"training step of {name}", seconds, partial(measure, name, workload)) for name in names]
    if options.size == "full" and options.allows("trl"):
        found.append(Step("training step inside TRL", 200, partial(measure_inside_trl, options)))
    return found


def measure_inside_trl(options: Options, results: dict[str, Any]) -> str:
    """TRL's trainer with our parts in it (`benchmarks.steps.trl_step`), which writes a file of its own beside this one."""
    command = [sys.executable, "-m", "benchmarks.steps.trl_step", "--repeats", "1", "--output", str(options.output)]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        raise RuntimeError(process.stderr.strip().splitlines()[-1])
    return process.stdout.strip().splitlines()[-1]


def measure(name: str, workload: Workload, results: dict[str, Any]) -> str:
    sizes = dataclasses.asdict(workload)
    results |= {"workload": sizes}
    arguments = [f"--{key.replace('_', '-')}={value}" for key, value in sizes.items()]
    command = [sys.executable, "-m", "benchmarks.steps.training_step", "--implementation", name, *arguments]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        raise RuntimeError(process.stderr.strip().splitlines()[-1])
    entry = results.setdefault("implementations", {})[name] = json.loads(process.stdout.splitlines()[-1])
    return f"{entry['tokens_per_second']:.0f} tokens a second"
