"""Every kernel compiled by every release of Triton that it is meant for, for every kind of GPU; needs no GPU.

    python -m benchmarks releases [--triton VERSION ...] [--targets TARGET ...]

Each release is installed once, from the package index, into a folder of its own (`.triton-releases/VERSION`), and takes
the installed one's place in a process of its own. Printed are the kernels that do not compile or that spill, and the
most registers that one takes; the exit code is 1 if there is any of the former.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import ROOT
from benchmarks.report.markdown import table

# The lowest that runs what the kernels are written in, the one that CI has, and the newest that was tried.
RELEASES = ("3.6.0", "3.7.1", "3.9.0")
TARGETS = ("sm_80", "sm_89", "sm_90", "sm_100", "sm_103", "sm_120", "gfx942", "gfx950")
FOLDER = ROOT / ".triton-releases"


def main(arguments: list[str]) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks releases", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--triton", nargs="+", default=RELEASES, metavar="VERSION", help=f"default {' '.join(RELEASES)}"
    )
    parser.add_argument("--targets", nargs="+", default=TARGETS, choices=TARGETS, metavar="TARGET")
    options = parser.parse_args(arguments)
    rows, faults = [], []
    for release in options.triton:
        install(release)
        for target in options.targets:
            compiled = compile_all(release, target)
            found = [f"{release}, {target}: {fault}" for fault in faults_of(compiled)]
            print("\n".join(found) or f"{release}, {target}: {len(compiled)} kernels", file=sys.stderr)
            registers = [each["registers"] for each in compiled if "registers" in each]
            rows.append([release, target, str(len(compiled)), str(max(registers, default=0)), str(len(found))])
            faults += found
    print(table(["Triton", "target", "kernels", "most registers", "faults"], rows))
    print("\n".join(faults))
    return 1 if faults else 0


def folder_of(release: str) -> Path:
    """Where a release is, or will be."""
    return FOLDER / release


def install(release: str) -> None:
    """Install a release into its folder, unless it is there."""
    folder = folder_of(release)
    if (folder / "triton").is_dir():
        return
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:"]
    process = subprocess.run([*command, "--target", str(folder), f"triton=={release}"])
    if process.returncode:
        raise SystemExit(f"--triton is {release}; expected a version that pip can install here")


def environment(release: str) -> dict[str, str]:
    """The environment of a process that imports this release, and ours of this tree; kernels are compiled there."""
    here = [str(folder_of(release)), str(ROOT / "kernels"), str(ROOT)]
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return kept | {"PYTHONPATH": os.pathsep.join(here)}


def compile_all(release: str, target: str, names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Compile the kernels (those named, or all) in a process of its own.

    Returns of each its name, and registers and spills, or the error that it ended in.
    """
    program = f"from benchmarks.gates.compiled import compile_report; compile_report({target!r}, {tuple(names)!r})"
    command = [sys.executable, "-c", program]
    process = subprocess.run(command, cwd=ROOT, env=environment(release), capture_output=True, text=True)
    if process.returncode:
        lines = process.stderr.strip().splitlines() or [f"exit code {process.returncode}"]
        return [{"kernel": "all", "error": lines[-1]}]
    lines = process.stdout.splitlines()
    assert lines[0] == release, f"Triton {release} was asked for, and {lines[0]} imported"
    return [json.loads(line) for line in lines[1:]]


def faults_of(compiled: list[dict[str, Any]]) -> list[str]:
    """What is wrong with compiled kernels: errors and spills, one line each."""
    faults = []
    for each in compiled:
        if "error" in each:
            faults.append(f"{each['kernel']} does not compile ({each['error']})")
        elif each["spills"]:
            faults.append(f"{each['kernel']} spills ({each['spills']})")
    return faults
