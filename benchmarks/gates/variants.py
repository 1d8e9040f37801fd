"""The launches that a GPU is to time, compiled ahead of time: do they spill, or take more registers than they say?"""

from __future__ import annotations

import importlib
import os

import torch

# By their names in the table, those under which they are compiled.
KERNELS = {"forward_part": "part", "grpo": "grpo statistics", "grpo_short": "grpo statistics"}
# Choices that change what is compiled; the others are hints, or decide which kernel is launched.
COMPILED = {"num_stages", "num_warps", "unroll", "block_bytes", "max_registers"}


def variant_faults(target: str, dtypes: tuple[str, ...] = ("bfloat16", "float32")) -> list[str]:
    """What is wrong with the variants on a target; in a process of its own, as `static.count_kernels`."""
    os.environ.pop("TRITON_INTERPRET", None)
    compiled = importlib.import_module("benchmarks.gates.compiled")
    launches = importlib.import_module("rlif_kernels.backends.triton.launches")
    groups = importlib.import_module("benchmarks.gpu.variants").VARIANTS.values()
    found = []
    for variant in (each for group in groups for each in group if COMPILED & each.choices.keys()):
        loop, short = KERNELS.get(variant.kernel, variant.kernel), variant.kernel == "grpo_short"
        for dtype in (getattr(torch, name) for name in dtypes):
            kernel = compiled.Kernel(loop, dtype, short=short)
            with launches.override(variant.kernel, **variant.choices):
                bound = launches.current().find(variant.kernel, target, dtype.itemsize, 151936).registers
                program = compiled.disassembled(target, compiled.compile_kernel(kernel, target))
            if program.spills or program.registers > bound:
                found.append(f"{kernel}, {variant}: {program.registers} registers of {bound}, {program.spills} spills")
    return found
