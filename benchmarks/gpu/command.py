"""Everything that needs a GPU, in one command: is it right, how fast is it, which launches are best, and why.

    python -m benchmarks gpu --output DIRECTORY [--minutes 7] [--parts PART ...] [--wheels DIRECTORY] [--dry-run]
    python -m benchmarks gpu --apply DIRECTORY/gpu.json

  contract   does every kernel launch, and is it right: the contract's grid, with poisoned outputs
  ops        token_stats and grpo_loss beside a read, a copy, TRL's kernel, Liger's and torch.compile
  variants   which launches are fastest at which shapes
  heads      the ops with the head in them beside their bare products, Liger, CCE and verl
  step       a training step of a 0.5B model, ours and TRL's
  counters   what Nsight Compute counts of three kernels
  sanitizer  memcheck and racecheck of small cases

Needs no network, and no more than the minutes given: each part has its share, the most valuable comes first, and what
a part leaves goes to the next. Every part is a process of its own, and DIRECTORY/gpu.json has what it found until then
once it ends, fails or is stopped; a table comes last. What cannot take part, a peer or a tool that is not installed,
is named. `--parts` runs some of them, in all of the time. `--wheels` puts the wheels of a directory in front of what is
installed, for these processes alone.

`--apply` turns such a file into what depends on it: the file goes to benchmarks/results, its launches to the kernels'
table, and its figures to the pages.

`--dry-run` goes through the same motions on tiny tensors, on a CPU too: it shows that the script works, and its figures
mean nothing. It takes peers along where wheels are carried.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.apply import apply
from benchmarks.gpu.budget import Part, finish, run_parts, start
from benchmarks.gpu.part import MODULES
from benchmarks.machine import PEER_PACKAGES, describe_machine
from benchmarks.report.gpu import summary
from rlif.errors import UserError
from rlif.files.whole import write_text

# Seconds of seven minutes.
SHARES = {"contract": 60, "ops": 90, "variants": 60, "heads": 60, "step": 60, "counters": 45, "sanitizer": 45}
# Left for the start of the first part, and for the end.
RESERVE_SECONDS = 10


class Parts:
    """The parts as processes, each of which is started, and imports what it needs, while the one before measures."""

    def __init__(
        self, output: Path, device: str, size: str, environment: dict[str, str], names: Sequence[str] = tuple(MODULES)
    ) -> None:
        self.output, self.device, self.size, self.environment = output, device, size, environment
        self.names = names
        self.started: dict[str, subprocess.Popen[str]] = {}

    def prepare(self, name: str) -> None:
        if name not in self.started:
            self.file(name).unlink(missing_ok=True)  # of a run before
            command = [sys.executable, "-m", "benchmarks.gpu.part", name, str(self.file(name)), self.device, self.size]
            self.started[name] = start(command, self.environment)

    def run(self, name: str, seconds: float) -> dict[str, Any]:
        """What the part found, also if it was stopped; and of one that failed the end of what it said."""
        self.prepare(name)
        if name != self.names[-1]:
            self.prepare(self.names[self.names.index(name) + 1])
        finished = finish(self.started[name], seconds, f"{seconds}\n")
        path = self.file(name)
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        if finished["exit"]:
            found.setdefault("failed", f"exit code {finished['exit']}")
            found["tail"] = finished["tail"]
        return found | ({"stopped": finished["stopped"]} if "stopped" in finished else {})

    def file(self, name: str) -> Path:
        return self.output / f"part-{name}.json"

    def stop(self) -> None:
        for process in self.started.values():
            if process.poll() is None:
                process.kill()
                process.communicate()


def part_environment(wheels: Path | None, site: Path, device: str) -> dict[str, str]:
    """Environment variables of the parts: where carried packages are, unpacked into `site`; a CPU interprets kernels.

    Raises:
        UserError: there are no wheels, or pip cannot unpack them.
    """
    root = str(Path(__file__).parents[2])
    places = [root, os.path.join(root, "kernels")]
    if wheels is not None:
        files = sorted(map(str, wheels.glob("*.whl")))
        if not files:
            raise UserError(f"--wheels: got {wheels}, expected a directory with files *.whl")
        # No index, no dependencies, nothing compiled: it only unpacks.
        options = ["--quiet", "--no-index", "--no-deps", "--no-compile", "--target", str(site)]
        done = subprocess.run(
            [sys.executable, "-m", "pip", "install", *options, *files], capture_output=True, text=True
        )
        if done.returncode:
            raise UserError(f"--wheels: pip cannot unpack those of {wheels}: {done.stderr.strip()[-300:]}")
        places.insert(0, str(site))
    places += [place for place in (os.environ.get("PYTHONPATH"),) if place]
    found = {"PYTHONPATH": os.pathsep.join(places), "PYTHONUNBUFFERED": "1"}
    return found | ({"TRITON_INTERPRET": "1"} if device == "cpu" else {})


def carried(site: Path) -> dict[str, str]:
    """Versions of the peers that were unpacked there, by the names that results files have for them."""
    names = {re.sub(r"[-_.]+", "-", name): name for name in PEER_PACKAGES}
    found = {re.sub(r"[-_.]+", "-", each.name.lower()): each.version for each in distributions(path=[str(site)])}
    return {name: found[plain] for plain, name in names.items() if plain in found}


def run(
    output: Path, minutes: float, names: Sequence[str], wheels: Path | None, dry_run: bool, device: str
) -> dict[str, Any]:
    """Run the parts of these names; returns the results, which are in OUTPUT/gpu.json."""
    path = output / "gpu.json"
    size = "full" if not dry_run else "tiny" if wheels is None else "tiny with peers"
    results: dict[str, Any] = {
        "suite": "gpu",
        "date": str(datetime.date.today()),
        "command": " ".join(["python -m benchmarks gpu", *sys.argv[2 if sys.argv[1:2] == ["gpu"] else 1 :]]),
        "machine": describe_machine(),
        "device": device,
        "size": size,
        "finished": False,
        "entries": [],
        "missing": {},
        "skipped": {},
        "parts": {},
    }

    def save(entries: dict[str, Any]) -> None:
        name = list(entries)[-1]
        results["parts"] = entries
        results["seconds"] = round(time.perf_counter() - started, 1)
        results["finished"] = set(entries) == set(SHARES)
        write_text(path, json.dumps(results, indent=1) + "\n", argument="--output")
        print(f"{name}: {json.dumps(entries[name])[:300]}", flush=True)

    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as site:
        parts = Parts(output, device, size, part_environment(wheels, Path(site), device), names)
        results["machine"]["versions"] |= carried(Path(site))
        try:
            parts.prepare(names[0])
            given = [Part(name, SHARES[name], partial(parts.run, name)) for name in names]
            run_parts(given, 60 * minutes - RESERVE_SECONDS, save)
        finally:
            parts.stop()
    for name in names:
        parts.file(name).unlink(missing_ok=True)
    return results


def main(command_line: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    either = parser.add_mutually_exclusive_group(required=True)
    either.add_argument("--output", type=Path, help="directory to write to")
    either.add_argument("--apply", type=Path, metavar="FILE", help="a gpu.json, to draw pages and launches from")
    parser.add_argument("--minutes", type=float, default=7.0, help="that it may take in all; default 7")
    parser.add_argument("--parts", nargs="+", choices=SHARES, default=list(SHARES), metavar="PART", help="default: all")
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="of packages that are not installed, a wheel each")
    parser.add_argument("--dry-run", action="store_true", help="tiny tensors; on a CPU too")
    arguments = parser.parse_args(command_line)
    try:
        if arguments.apply is not None:
            for line in apply(arguments.apply):
                print(line)
            return 0
        if not arguments.dry_run and not torch.cuda.is_available():
            parser.error("there is no CUDA or ROCm device; --dry-run shows what would be done")
        arguments.output.mkdir(parents=True, exist_ok=True)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        names = [name for name in SHARES if name in arguments.parts]
        results = run(arguments.output, arguments.minutes, names, arguments.wheels, arguments.dry_run, device)
    except UserError as error:
        parser.error(str(error))
    print(arguments.output / "gpu.json")
    print(summary(results))
    return 0
