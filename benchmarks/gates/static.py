"""Suite `static`: what the GPU kernels compile to for each target, counted on a machine without any GPU.

Every kernel is compiled ahead of time, disassembled, and its main loop found: instructions per element, barriers,
shuffles, load and store width, loads under way, registers, spills, and how many programs a multiprocessor holds. What a
call should take follows from these by `benchmarks.gates.predict`, and is drawn with them.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from functools import partial
from typing import Any

from benchmarks.gates.variants import count_variants
from benchmarks.memory import in_fresh_process
from benchmarks.runner import Options, Step

COUNTED_TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")


def steps(options: Options) -> list[Step]:
    """One target each; sm_90 alone when it has to be quick."""
    targets = COUNTED_TARGETS if options.size == "full" else ("sm_90",)
    found = [Step(f"kernels for {target}", 90, partial(add_target, target)) for target in targets]
    return [*found, Step("variants", 60, add_variants)] if options.size == "full" else found


def add_target(target: str, results: dict[str, Any]) -> str:
    counted = in_fresh_process(count_kernels, target, forked=False)
    results["versions"] = counted["versions"]
    results.setdefault("counts", []).extend(counted["counts"])
    found = {each["kernel"]: each["instructions"] for each in counted["counts"]}
    return ", ".join(f"{name} {found[name]:.1f}" for name in ("forward (bf16)", "backward (bf16)")) + " an element"


def add_variants(results: dict[str, Any]) -> str:
    results["variants"] = in_fresh_process(count_variants, forked=False)
    return f"{len(results['variants'])} kernels"


def count_kernels(target: str, only: Sequence[str] = ()) -> dict[str, Any]:
    """Versions, and counts of all kernels or of `only` those with these names.

    In a process of its own: in this one kernels may be interpreted, which cannot be undone.
    """
    os.environ.pop("TRITON_INTERPRET", None)
    counted: dict[str, Any] = importlib.import_module("benchmarks.gates.compiled").count_target(target, only)
    return counted
