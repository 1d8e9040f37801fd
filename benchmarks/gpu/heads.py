"""Part `heads`: the ops that have the head in them, beside their bare matrix products, Liger, CCE and verl."""

from __future__ import annotations

from benchmarks.gpu.ops import compare
from benchmarks.gpu.part import Task
from benchmarks.ops.implementations import VERL_ENTROPY, VERL_PPO
from benchmarks.ops.shapes import head

WHO = {
    "linear_token_stats": (VERL_PPO, VERL_ENTROPY, "Liger", "rlif"),
    "linear_grpo_loss": (VERL_PPO, "CCE", "Liger", "rlif"),
    "linear_cross_entropy": ("CCE", "rlif"),
}
# Llama 3's hidden size and, to a multiple of the tiles that matrix products like, its vocabulary.
SHAPE = head(8192, 131072, 4096, "bfloat16")
TINY_SHAPE = head(16, 300, 16)


def measure(task: Task) -> None:
    """Fill in an entry, as the suite `ops` has them, for each op."""
    compare(task, WHO, [TINY_SHAPE if task.tiny else SHAPE], 0.01 if task.tiny else 3.0)
