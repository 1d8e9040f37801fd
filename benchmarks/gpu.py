"""Everything that needs a GPU, in one command: tests, compute-sanitizer, and every op beside its floors and peers.

    python -m benchmarks.gpu --output DIRECTORY [--dry-run]

Needs no network. Writes DIRECTORY/gpu.json after every step, so that an interruption loses none that is done. Peers
take part where they can be imported; the others are named in the file. `--dry-run` goes through the same motions on
tiny tensors, on a CPU too: it shows that the script works, and its figures mean nothing.
"""

import argparse
import datetime
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks import gpu_heads, gpu_logits
from benchmarks.machine import describe

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


def run_tests() -> dict[str, Any]:
    started = time.perf_counter()
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/kernels", "-p", "no:cacheprovider"]
    result = subprocess.run(command, capture_output=True, text=True)
    return {"exit": result.returncode, "seconds": time.perf_counter() - started, "tail": result.stdout[-3000:]}


def run_sanitizer() -> dict[str, Any]:
    tool = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if tool is None:
        return {"missing": "compute-sanitizer is not on PATH or in /usr/local/cuda/bin"}
    results = {}
    # Within a block of torch's cache, far larger than these tensors, nothing is out of bounds or uninitialised.
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    for check in SANITIZER_TOOLS:
        command = [tool, "--tool", check, "--error-exitcode", "9", sys.executable, "-c", SANITIZER_CASE]
        result = subprocess.run(command, capture_output=True, text=True, env=environment)
        results[check] = {"exit": result.returncode, "tail": (result.stdout + result.stderr)[-1500:]}
    return results


def measurements(device: str, dry_run: bool) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """What to measure, each under the name of the list that it belongs to."""
    for shape in [gpu_heads.TINY_SHAPE] if dry_run else gpu_heads.SHAPES:
        yield "heads", lambda shape=shape: gpu_heads.measure_head(shape, device, dry_run)  # type: ignore[misc]
    for loss_shape in [(2, 4, 1000)] if dry_run else gpu_logits.LOSS_SHAPES:
        yield "losses", lambda shape=loss_shape: gpu_logits.measure_loss(shape, device, dry_run)  # type: ignore[misc]
    for num_columns in (1000,) if dry_run else gpu_logits.NUM_COLUMNS:
        for num_rows in (2,) if dry_run else gpu_logits.NUM_ROWS:
            for dtype in (torch.bfloat16, torch.float32):
                case = (num_rows, num_columns, dtype, device, dry_run)
                yield "ops", lambda case=case: gpu_logits.measure_statistics(*case)  # type: ignore[misc]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="directory to write to")
    parser.add_argument("--dry-run", action="store_true", help="tiny tensors, no tests; on a CPU too")
    arguments = parser.parse_args()
    if not arguments.dry_run and not torch.cuda.is_available():
        parser.error("there is no CUDA or ROCm device; --dry-run shows what would be done")
    device = "cuda" if torch.cuda.is_available() else "cpu"

    results: dict[str, Any] = {"date": str(datetime.date.today()), "machine": describe(), "dry_run": arguments.dry_run}

    def save() -> None:
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / "gpu.json").write_text(json.dumps(results, indent=1) + "\n")

    if not arguments.dry_run:
        for name, run in (("tests", run_tests), ("sanitizer", run_sanitizer)):
            results[name] = run()
            print(name, json.dumps(results[name])[-1500:], flush=True)
            save()
    for name, measure in measurements(device, arguments.dry_run):
        entry = measure()
        results.setdefault(name, []).append(entry)
        print(name, json.dumps(entry), flush=True)
        save()


if __name__ == "__main__":
    main()
