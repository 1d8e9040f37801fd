"""The launches that a GPU is to time, compiled ahead of time: what they become, and whether that is what they say.

What has kernels in it is imported by the functions: whether these are interpreted is decided then.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from typing import Any

import torch

TARGET = "sm_90"
DTYPES = ("bfloat16", "float32")


def count_variants(target: str = TARGET, dtypes: Sequence[str] = DTYPES) -> list[dict[str, Any]]:
    """Return `disassembly.Counts` of every variant that compiles to something of its own, as dictionaries.

    They have the `variant`'s name too, and the `planned_registers`, which the launcher's plans count on. In a process
    of its own, as `static.count_kernels`.
    """
    os.environ.pop("TRITON_INTERPRET", None)
    count = importlib.import_module("benchmarks.gates.compiled").count_variants
    return [entry for name in dtypes for entry in count(target, getattr(torch, name))]


def faults_of(counted: list[dict[str, Any]]) -> list[str]:
    """What is wrong with counted variants: spills, or more registers than they say."""
    return [
        f"{each['kernel']}, {each['variant']}: {each['registers']} registers of {each['planned_registers']}, "
        f"{each['spills']} spills"
        for each in counted
        if each["spills"] or each["registers"] > each["planned_registers"]
    ]
