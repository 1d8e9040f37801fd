"""Every kernel compiled by every release of Triton that it is meant for, for every kind of GPU; needs no GPU.

    python -m benchmarks releases [--triton VERSION ...] [--targets TARGET ...] [--output DIR]

A release that is not installed goes once, from the package index, into a folder of its own
(`.triton-releases/VERSION`), and takes the installed one's place in a process of its own. What was found is in
DIR/MACHINE-DATE-releases.json after each target of each release, the most telling first. A command that was stopped
goes on where it was if it is given again on the same day with the same kernels. After a change only what it changed is
compiled: what Triton made stays in `.triton-releases/cache`. Printed are the kernels that do not compile or that spill,
and the most registers that one takes; the exit code is 1 if there is any of the former.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.report import ROOT
from benchmarks.report.releases import faults_of, releases_table
from benchmarks.runner import Options, Step, results_path, run_suite

# The lowest that runs what the kernels are written in, the one that CI has, and the newest that was tried.
RELEASES = ("3.6.0", "3.7.1", "3.9.0")
# Those that differ the most come first.
TARGETS = ("sm_90", "gfx942", "sm_100", "sm_80", "sm_120", "gfx950", "sm_89", "sm_103")
FOLDER = ROOT / ".triton-releases"
DEFAULT_OUTPUT = Path("runs/benchmarks")
# Of a target on one core, all kernels: for the time left alone.
SECONDS = 120
# The kernel of an entry that is of none, but of a process that ended before it could say more.
ALL = "all"


def main(arguments: list[str]) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks releases", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--triton", nargs="+", default=RELEASES, metavar="VERSION", help=f"default {' '.join(RELEASES)}"
    )
    parser.add_argument("--targets", nargs="+", default=TARGETS, choices=TARGETS, metavar="TARGET")
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help=f"directory; default {DEFAULT_OUTPUT}")
    options = parser.parse_args(arguments)
    whole = set(RELEASES) <= set(options.triton) and set(TARGETS) <= set(options.targets)
    now = sources()
    known = known_entries(options.output, now)
    steps = [
        Step(f"Triton {release}, {target}", SECONDS, partial(add_target, release, target, now, known))
        for target in options.targets
        for release in options.triton
    ]
    try:
        results = run_suite("releases", Options(options.output, size="full" if whole else "quick"), steps)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130
    print(releases_table(results))
    for name, reason in results["missing"].items():
        print(f"missing: {name} ({reason})", file=sys.stderr)
    return 1 if faults_of(results["entries"]) or results["missing"] else 0


def add_target(release: str, target: str, now: str, known: list[dict[str, Any]], results: dict[str, Any]) -> str:
    """Add an entry of each kernel to the results, and say how many there are and what is wrong with them.

    Args:
        now: `sources` of this run.
        known: entries that need not be made again.
    """
    results["sources"] = now
    compiled = [each for each in known if (each["triton"], each["target"]) == (release, target)]
    if not compiled:
        install(release)
        compiled = [{"triton": release, "target": target, **each} for each in compile_all(release, target)]
    results["entries"] += compiled
    return "; ".join([f"{len(compiled)} kernels", *faults_of(compiled)])


def sources() -> str:
    """A checksum of all that decides what is compiled: the kernels, their launches, and which of them there are."""
    kernels = ROOT / "kernels" / "rlif_kernels"
    which = (ROOT / "benchmarks" / name for name in ("gates/compiled.py", "gpu/variants.py"))
    files = [*kernels.rglob("*.py"), *kernels.rglob("launches.json"), *which]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(files))).hexdigest()


def known_entries(output: Path, now: str) -> list[dict[str, Any]]:
    """Entries of a run of today with the same sources, which was stopped, but for those of processes that broke."""
    path = results_path("releases", Options(output))
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    entries = found["entries"] if found.get("sources") == now else []
    return [each for each in entries if each["kernel"] != ALL]


def folder_of(release: str) -> Path:
    """Where a release is, or will be."""
    if release == importlib.metadata.version("triton"):
        return Path(str(importlib.metadata.distribution("triton").locate_file("")))
    return FOLDER / release


def install(release: str) -> None:
    """Install a release into its folder, unless it is there.

    Raises:
        RuntimeError: pip cannot, for a version that there is not, or for want of an index.
    """
    folder = folder_of(release)
    if (folder / "triton").is_dir():
        return
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:"]
    process = subprocess.run([*command, "--target", str(folder), f"triton=={release}"], capture_output=True, text=True)
    if process.returncode:
        raise RuntimeError(f"--triton: pip cannot install {release} here: {process.stderr.strip()[-300:]}")


def environment(release: str) -> dict[str, str]:
    """The environment of a process that imports this release, and ours of this tree; kernels are compiled there."""
    here = [str(ROOT / "kernels"), str(ROOT), str(folder_of(release))]
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return kept | {"PYTHONPATH": os.pathsep.join(here), "TRITON_CACHE_DIR": str(FOLDER / "cache")}


def compile_all(release: str, target: str, names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Compile the kernels (those named, or all) in a process of its own.

    Returns of each its name, and registers and spills, or the error that it ended in.
    """
    program = f"from benchmarks.gates.compiled import compile_report; compile_report({target!r}, {tuple(names)!r})"
    command = [sys.executable, "-c", program]
    process = subprocess.run(command, cwd=ROOT, env=environment(release), capture_output=True, text=True)
    if process.returncode:
        lines = process.stderr.strip().splitlines() or [f"exit code {process.returncode}"]
        return [{"kernel": ALL, "error": lines[-1]}]
    lines = process.stdout.splitlines()
    assert lines[0] == release, f"Triton {release} was asked for, and {lines[0]} imported"
    return [json.loads(line) for line in lines[1:]]
