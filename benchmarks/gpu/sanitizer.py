"""Part `sanitizer`: small cases of all ops under NVIDIA's compute-sanitizer, its tools side by side."""

from __future__ import annotations

import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.gpu.budget import finish, start
from benchmarks.gpu.part import Task

TOOLS = ("memcheck", "racecheck")
CASE = """
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
        print(num_columns, dtype, flush=True)
"""


def measure(task: Task) -> None:
    """Fill in what each tool says. After each size and dtype the case prints a line: so far it was checked."""
    tool = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if tool is None:
        task.found["missing"] = "compute-sanitizer is not on PATH or in /usr/local/cuda/bin"
        return
    # Within a block of torch's cache, far larger than these tensors, nothing is out of bounds or uninitialised.
    environment = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}

    def check(name: str) -> dict[str, Any]:
        command = [tool, "--tool", name, "--error-exitcode", "9", sys.executable, "-c", CASE]
        return finish(start(command, environment), task.left(), tail=1500)

    with ThreadPoolExecutor(len(TOOLS)) as pool:
        task.found |= dict(zip(TOOLS, pool.map(check, TOOLS), strict=True))
