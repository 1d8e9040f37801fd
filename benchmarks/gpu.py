"""Everything that needs a GPU, in one command: tests, compute-sanitizer, and `token_stats` beside its floors and peers.

    python -m benchmarks.gpu --output DIRECTORY [--dry-run]

Needs no network. Writes DIRECTORY/gpu-token-stats.json after every step, so that an interruption loses none that is
done. `--dry-run` goes through the same motions on tiny tensors, on a CPU too: it shows that the script works, and its
figures mean nothing.
"""

import argparse
import datetime
import importlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.machine import describe
from rlif_kernels import token_stats

# Vocabularies of Llama 2, Llama 3, Qwen2.5 and Gemma; GPT-2's, whose rows start at every alignment.
NUM_COLUMNS = (32000, 128256, 151936, 262144, 50257)
NUM_ROWS = (64, 1024, 8192)
SANITIZER_TOOLS = ("memcheck", "racecheck", "initcheck")
SANITIZER_CASE = """
import torch
from rlif_kernels import token_stats
from rlif_kernels.stats import FIELDS
for num_columns in (300, 4097, 50257):
    for dtype in (torch.float32, torch.bfloat16):
        logits = torch.randn(3, num_columns, device="cuda").to(dtype)
        logits[1, 7] = -torch.inf
        leaf = logits.requires_grad_()
        stats = token_stats(leaf * 1, torch.tensor([0, num_columns - 1, -100], device="cuda"),
                            outputs=FIELDS, inplace_backward=True)
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
    for check in SANITIZER_TOOLS:
        command = [tool, "--tool", check, "--error-exitcode", "9", sys.executable, "-c", SANITIZER_CASE]
        result = subprocess.run(command, capture_output=True, text=True)
        results[check] = {"exit": result.returncode, "tail": (result.stdout + result.stderr)[-1500:]}
    return results


def milliseconds(function: Callable[[], object], dry_run: bool) -> list[float]:
    """Median, 20th and 80th percentile."""
    if dry_run:
        started = time.perf_counter()
        function()
        return [1e3 * (time.perf_counter() - started)] * 3
    from triton.testing import do_bench

    return list(do_bench(function, warmup=25, rep=100, quantiles=[0.5, 0.2, 0.8]))


def naive(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    logp = F.log_softmax(logits.float(), dim=-1)
    return logp.gather(-1, targets[:, None])[:, 0], -(logp.exp() * logp).sum(-1), -logp.mean(-1)


def ours(logits: Tensor, targets: Tensor) -> tuple[Tensor | None, ...]:
    return token_stats(logits, targets)[:3]


def peers(missing: dict[str, str]) -> dict[str, Callable[[Tensor, Tensor], tuple[Tensor | None, ...]]]:
    """What else computes these statistics; TRL's has two of the three. Those that fail to import go to `missing`."""
    found: dict[str, Callable[[Tensor, Tensor], tuple[Tensor | None, ...]]] = {"rlif": ours, "naive": naive}
    try:
        trl = importlib.import_module("trl.kernels.logprob_entropy")
        found["TRL (two of three)"] = lambda logits, targets: trl._LogProbEntropyFunction.apply(
            logits, targets, 1.0, None
        )
    except Exception as error:  # whatever a peer raises, the others go on
        missing["TRL"] = repr(error)
    return found


def measure(num_rows: int, num_columns: int, dtype: torch.dtype, device: str, dry_run: bool) -> dict[str, Any]:
    """Time, and memory above the inputs, of every implementation at one shape, beside the floors of the same run."""
    logits = (3 * torch.randn(num_rows, num_columns, device=device)).to(dtype)
    targets = torch.randint(num_columns, (num_rows,), device=device)
    other = torch.empty_like(logits)
    entry: dict[str, Any] = {"rows": num_rows, "columns": num_columns, "dtype": str(dtype), "bytes": logits.nbytes}
    entry["floors"] = {
        "read": milliseconds(lambda: logits.sum(dtype=torch.float32), dry_run),
        "copy": milliseconds(lambda: other.copy_(logits), dry_run),
    }
    leaf = logits.detach().requires_grad_()
    upstream = torch.randn(num_rows, device=device)
    missing: dict[str, str] = {}
    entry["forward"], entry["forward_backward"], entry["missing"] = {}, {}, missing
    for name, statistics in peers(missing).items():
        if name == "naive" and logits.numel() * 4 * 6 > 60e9:
            missing[name] = "needs more than 60 GB"
            continue
        try:
            with torch.no_grad():
                entry["forward"][name] = milliseconds(lambda f=statistics: f(logits, targets), dry_run)  # type: ignore[misc]

            def step(f: Callable[[Tensor, Tensor], tuple[Tensor | None, ...]] = statistics) -> None:
                leaf.grad = None
                values = [value for value in f(leaf, targets) if value is not None]
                torch.autograd.backward(values, [upstream] * len(values))

            entry["forward_backward"][name] = milliseconds(step, dry_run)
            leaf.grad = None
        except Exception as error:
            missing[name] = repr(error)
    return entry


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="directory to write to")
    parser.add_argument("--dry-run", action="store_true", help="tiny tensors, no tests; on a CPU too")
    arguments = parser.parse_args()
    if not arguments.dry_run and not torch.cuda.is_available():
        parser.error("there is no CUDA or ROCm device; --dry-run shows what would be done")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shapes = [(2, 1000)] if arguments.dry_run else [(n, v) for v in NUM_COLUMNS for n in NUM_ROWS]

    results: dict[str, Any] = {"date": str(datetime.date.today()), "machine": describe(), "dry_run": arguments.dry_run}

    def save() -> None:
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / "gpu-token-stats.json").write_text(json.dumps(results, indent=1) + "\n")

    if not arguments.dry_run:
        for name, run in (("tests", run_tests), ("sanitizer", run_sanitizer)):
            results[name] = run()
            print(name, json.dumps(results[name])[-1500:], flush=True)
            save()
    results["ops"] = []
    for num_rows, num_columns in shapes:
        for dtype in (torch.bfloat16, torch.float32):
            entry = measure(num_rows, num_columns, dtype, device, arguments.dry_run)
            results["ops"].append(entry)
            print(json.dumps(entry), flush=True)
            save()


if __name__ == "__main__":
    main()
