"""Part `ops`: the ops on logits at the shapes of models, beside the floors, TRL's kernel, Liger's and torch.compile.

The floors are a read and a copy of the same bytes, in the same rounds. All that need no compilation by torch come
first, since it takes seconds for every shape.
"""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.gpu.part import Task
from benchmarks.machine import free_bytes
from benchmarks.memory import describe_error
from benchmarks.ops.implementations import IMPLEMENTATIONS, TWO_OF_THREE, Implementation
from benchmarks.ops.problems import Shape
from benchmarks.ops.shapes import fitted, logits
from benchmarks.ops.suite import time_op

# Vocabularies of Qwen2.5, Llama 2, Llama 3 and Gemma.
COLUMNS = (151936, 32000, 128256, 262144)
ROWS = (8192, 64, 1024)
# Who takes part; what only repeats another is left to the suite `ops`.
WITHOUT_COMPILATION = {
    "token_stats": ("eager", TWO_OF_THREE, "rlif"),
    "grpo_loss": ("eager", "TRL", "Liger", "rlif", "rlif, token_stats"),
}
COMPILED = {op: ("torch.compile", "rlif") for op in WITHOUT_COMPILATION}
TINY_ROWS, TINY_COLUMNS = 16, 300


def measure(task: Task) -> None:
    """Fill in an entry, as the suite `ops` has them, for every op and shape that there is time for."""
    if task.tiny:
        compare(task, WITHOUT_COMPILATION, [logits(TINY_ROWS, TINY_COLUMNS)], 0.01)
        return
    every = [logits(rows, columns, "bfloat16") for columns in COLUMNS for rows in ROWS]
    compare(task, WITHOUT_COMPILATION, every, 1.0)
    compare(task, COMPILED, [shape for shape in every if shape.rows == ROWS[0]], 0.5)


def compare(task: Task, who: Mapping[str, tuple[str, ...]], shapes: list[Shape], seconds: float) -> None:
    """Time each op at each shape, for about so many seconds each; what there is no time for is named.

    Args:
        who: takes part in each op, by their names in `IMPLEMENTATIONS`.
    """
    results = task.found
    for key, empty in (("entries", list), ("missing", dict), ("skipped", dict)):
        results.setdefault(key, empty())
    for wanted in shapes:
        for op, names in who.items():
            shape = fitted(op, wanted, free_bytes(task.device))
            label = f"{op}, {shape}: {', '.join(names)}"
            if task.left() < 4 * seconds:
                results["skipped"][label] = "no time was left"
                continue
            try:
                print(time_op(chosen(op, names, task), task.device, op, shape, seconds, results), flush=True)
            except Exception as error:  # for want of memory, say: it costs no other shape
                results["missing"][label] = describe_error(error)
            task.save()


def chosen(op: str, names: tuple[str, ...], task: Task) -> list[Implementation]:
    """Those of the names that can run on the device, without the peers in a quick dry run."""
    found = {each.name: each for each in IMPLEMENTATIONS[op] if task.device in each.devices}
    if not task.peers:
        found = {name: each for name, each in found.items() if each.package in ("torch", "rlif")}
    return [found[name] for name in names if name in found]
