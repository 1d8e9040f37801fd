"""How the learning rate goes over the steps of a run."""

from __future__ import annotations

import math


def scheduled(step: int, max_steps: int, *, learning_rate: float, warmup_ratio: float, lr_scheduler_type: str) -> float:
    """The learning rate of a step, counted from 1: a linear rise in the first `warmup_ratio`, then the schedule.

    The peak, `learning_rate`, comes right after the warm-up, and no step is spent at 0.

    Args:
        step: counted from 1.
        max_steps: of the run.
        learning_rate: the peak.
        warmup_ratio: share of the steps in which it rises.
        lr_scheduler_type: constant, or falling to 0 as a line ("linear") or a half cosine ("cosine").
    """
    warmup_steps = math.ceil(warmup_ratio * max_steps)
    if step <= warmup_steps:
        return learning_rate * step / (warmup_steps + 1)
    done = (step - 1 - warmup_steps) / (max_steps - warmup_steps)
    factor = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * done))}
    return learning_rate * factor[lr_scheduler_type]
