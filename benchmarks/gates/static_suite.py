"""Suite `static`: what the kernels compile to for each target, counted without any GPU (`benchmarks.gates.static`)."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.runner import Options, Step

TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")


def steps(options: Options) -> list[Step]:
    """One target each; sm_90 alone when it has to be quick."""
    targets = TARGETS if options.size == "full" else ("sm_90",)
    return [Step(f"kernels for {target}", 35, partial(count, target)) for target in targets]


def count(target: str, results: dict[str, Any]) -> str:
    """In a process of its own: in this one the kernels may be interpreted, which cannot be undone."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "counts.json"
        command = [sys.executable, "-m", "benchmarks.gates.static", "--target", target, "--json", str(path)]
        process = subprocess.run(command, capture_output=True, text=True)
        if process.returncode:
            raise RuntimeError(process.stderr.strip().splitlines()[-1])
        counted = json.loads(path.read_text())
    results["versions"] = counted["versions"]
    results.setdefault("counts", []).extend(counted["counts"])
    found = {each["kernel"]: each["instructions"] for each in counted["counts"]}
    return ", ".join(f"{name} {found[name]:.1f}" for name in ("forward (bf16)", "backward (bf16)")) + " an element"
