"""Everything that needs a GPU, in one command: tests, every op beside its peers, counters, training step, sanitizer.

    python -m benchmarks gpu --output DIRECTORY [--minutes 9] [--dry-run]

Needs no network, and no more than the minutes given: each part has its share, the most valuable comes first, and what
no longer fits is named. Writes DIRECTORY/gpu.json after every part, beside the files of the suites `ops` and `loop`,
which are written after every measurement. What cannot take part, a peer or a tool that is not installed, is named in
the files. `--dry-run` goes through the same motions on tiny tensors, on a CPU too: it shows that the script works, and
its figures mean nothing.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import shutil
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.budget import Part, finish, run_parts
from benchmarks.gpu.ncu import profile_counters
from benchmarks.machine import describe_machine

# Left for what lies between the parts.
RESERVE_SECONDS = 10
SANITIZER_TOOLS = ("memcheck", "racecheck", "initcheck")
SANITIZER_CASE = """
import torch
from rlif_kernels import grpo_loss, linear_grpo_loss, linear_token_stats, token_stats
from rlif_kernels.stats import FIELDS
for num_columns in (300, 4097, 50257):
    for dtype in (torch.float32, torch.bfloat16):
        logits = torch.randn(3, num_columns, device="cuda").to(dtype)
        logits[1, 7] = -torch.inf
        leaf = logits.requires_grad_()
        targets = torch.tensor([0, num_columns - 1, -100], device="cuda")
        stats = token_stats(leaf * 1, targets, outputs=FIELDS, inplace_backward=True)
        sum(value.sum() for value in stats[1:5]).backward()

        old = torch.randn(1, 3, device="cuda")
        advantages = torch.tensor([[1.0, -1.0, 1.0]], device="cuda")
        options = dict(beta=0.1, entropy_coef=0.1, self_certainty_coef=0.1)
        result = grpo_loss((leaf * 1)[None], targets[None], advantages, old, old, inplace_backward=True, **options)
        result.loss.backward()

        hidden = torch.randn(1, 3, 32, device="cuda").to(dtype).requires_grad_()
        weight = torch.randn(num_columns, 32, device="cuda").to(dtype).requires_grad_()
        small = dict(tile_bytes=2 * num_columns)  # several tiles
        result = linear_grpo_loss(hidden, weight, targets[None], advantages, old, old, **options, **small)
        result.loss.backward()
        stats = linear_token_stats(hidden, weight, targets[None], outputs=FIELDS, **small)
        sum(value.sum() for value in stats[1:5]).backward()
torch.cuda.synchronize()
"""
# A suite in a process of its own: a kernel that faults takes its process's GPU context with it, and no more.
SUITE = """
import sys
from pathlib import Path
from benchmarks.runner import Options, run_suite
name, output, device, size, seconds = sys.argv[1:]
sys.argv[:] = ["benchmarks", name, "--device", device, "--output", output]  # the results name a command that there is
peers = frozenset() if size == "tiny" else None
run_suite(name, Options(Path(output), device, size, peers, repeats=1, seconds=float(seconds)))
"""


def run_tests(seconds: float, where: str, workers: int) -> dict[str, Any]:
    """The tests there that are marked for a GPU, with several workers where pytest-xdist is installed."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", where, "-p", "no:cacheprovider"]
    # What is not installed here costs its own tests: no strictness about the settings of absent plugins.
    command += ["-o", "addopts=--strict-markers", "--continue-on-collection-errors"]
    if workers > 1 and importlib.util.find_spec("xdist"):
        command += ["-n", str(workers)]
    return finish(command, seconds)


def run_suite_within(name: str, device: str, size: str, output: Path, seconds: float) -> dict[str, Any]:
    """A suite of `python -m benchmarks`; the figures are in the file that it writes."""
    arguments = [name, str(output), device, size, str(seconds - 15)]
    return finish([sys.executable, "-c", SUITE, *arguments], seconds, tail=1500)


def run_sanitizer(seconds: float) -> dict[str, Any]:
    """Small cases of all ops under compute-sanitizer, a share of the time for each of its tools."""
    tool = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if tool is None:
        return {"missing": "compute-sanitizer is not on PATH or in /usr/local/cuda/bin"}
    # Within a block of torch's cache, far larger than these tensors, nothing is out of bounds or uninitialised.
    environment = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    results: dict[str, Any] = {}
    started = time.perf_counter()
    for number, check in enumerate(SANITIZER_TOOLS):
        left = seconds - (time.perf_counter() - started)
        command = [tool, "--tool", check, "--error-exitcode", "9", sys.executable, "-c", SANITIZER_CASE]
        results[check] = finish(command, left / (len(SANITIZER_TOOLS) - number), environment, tail=1500)
    return results


def parts(output: Path, device: str, dry_run: bool) -> list[Part]:
    """What to do, the most valuable first, and how many seconds it may take on an H200."""
    size = "tiny" if dry_run else "full"
    where, workers = ("tests/kernels/test_gpu.py", 1) if dry_run else ("tests", 8)
    counted = {"rows": 8, "columns": 100} if dry_run else {}
    return [
        Part("tests", 30, 110, partial(run_tests, where=where, workers=workers)),
        Part("ops", 40, 250, partial(run_suite_within, "ops", device, size, output)),
        Part("counters", 25, 50, partial(profile_counters, **counted)),
        Part("loop", 40, 80, partial(run_suite_within, "loop", device, size, output)),
        Part("sanitizer", 30, 90, run_sanitizer),
    ]


def main(command_line: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="directory to write to")
    parser.add_argument("--minutes", type=float, default=9.0, help="that it may take in all; default 9")
    parser.add_argument("--dry-run", action="store_true", help="tiny tensors; on a CPU too")
    arguments = parser.parse_args(command_line)
    if not arguments.dry_run and not torch.cuda.is_available():
        parser.error("there is no CUDA or ROCm device; --dry-run shows what would be done")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / "gpu.json"
    results: dict[str, Any] = {
        "date": str(datetime.date.today()),
        "machine": describe_machine(),
        "dry_run": arguments.dry_run,
        "parts": {},
    }

    def save(entries: dict[str, Any]) -> None:
        name = list(entries)[-1]
        print(f"{name}: {json.dumps(entries[name])[:1500]}", flush=True)
        path.write_text(json.dumps(results | {"parts": entries}, indent=1) + "\n")

    started = time.perf_counter()
    seconds = 60 * arguments.minutes - RESERVE_SECONDS
    results["parts"] = run_parts(parts(arguments.output, device, arguments.dry_run), seconds, save)
    results["seconds"] = round(time.perf_counter() - started, 1)
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(path)
    return 0
