"""The least time that an op could take: what is measured beside it, and what follows for its entry in the results."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.ops.problems import Op, OpProblem
from rlif_kernels.backends.c.build import library


def floor_milliseconds(entry: dict[str, Any], phase: str) -> float | None:
    """Return the least time of an entry's phase, from its own floors; None if they were not measured.

    Of logits a read, and for the gradient a write: `token_stats` cannot know its gradient before all of the forward is
    done, and so has to read them again; the loss can. Of a head one product, and two for the gradients.
    """
    floors = entry.get("floors", {})
    if not all(phase in floor for floor in floors.values()) or not floors:
        return None
    # The faster of its two medians: where the system hands out memory slowly for a while, that is no bound.
    times = {name: min(each["median"] for each in floor.values()) for name, floor in floors.items()}
    if "logits" in times:
        return times["logits"] if phase == "forward" else sum(times.values())
    if phase == "forward":
        return times["read"]
    return times["copy"] + (0.0 if entry["op"] in ("grpo_loss", "divergence") else times["read"])


def floors(op: Op, problem: OpProblem) -> dict[str, Callable[[], object]]:
    """What nobody can do without: to read and write the logits, or the products of the head."""
    if not op.head:
        given = problem.leaves[0].detach()
        # As float32, whatever it is: bfloat16 would be bound by its conversion on a CPU.
        words = given.view(torch.float32) if given.shape[-1] * given.element_size() % 4 == 0 else given
        if op.paired:
            teacher = problem.teacher[0].view(words.dtype)
            return {
                "read": lambda: (words.sum(), teacher.sum()),
                "copy": lambda: (copy_into_new_memory(given), teacher.sum()),
            }
        return {"read": words.sum, "copy": partial(copy_into_new_memory, given)}
    hidden, weight = (leaf.detach() for leaf in problem.leaves)
    hidden = hidden.flatten(0, 1)
    made = torch.empty(len(hidden), len(weight), dtype=hidden.dtype, device=hidden.device).normal_()
    d_hidden, d_weight = torch.empty_like(hidden), torch.empty_like(weight)
    products = [(hidden, weight)]
    if op.paired:
        products.append((problem.teacher[0].flatten(0, 1), problem.teacher[1]))
    return {
        "logits": lambda: [torch.mm(left, right.T, out=made) for left, right in products],
        "hidden gradient": lambda: torch.mm(made, weight, out=d_hidden),
        "weight gradient": lambda: torch.mm(made.T, hidden, out=d_weight),
    }


def copy_into_new_memory(source: Tensor) -> Tensor:
    """A copy where everybody's gradient goes. A CPU hands memory out page by page: the largest pages cost least."""
    copied = torch.empty_like(source)
    kernels = library() if source.device.type == "cpu" else None
    if kernels is not None:
        kernels.rlif_expect_writes(ctypes.c_void_p(copied.data_ptr()), ctypes.c_int64(copied.nbytes))
    return copied.copy_(source)
