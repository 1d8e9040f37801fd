"""How far each optimizer step goes: the learning rate over a run, and no step where the numbers are not finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook


def scheduled(step: int, max_steps: int, *, learning_rate: float, warmup_ratio: float, lr_scheduler_type: str) -> float:
    """Return the learning rate of a step, counted from 1: a linear rise in the first `warmup_ratio`, then the schedule.

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


def warmed_cosine(step: int, max_steps: int, *, learning_rate: float, warmup_steps: int) -> float:
    """Return the learning rate of a step, counted from 1, that the built-in models are pretrained with.

    It is a half cosine over the whole run times a linear rise in the first steps, where `scheduled` begins the cosine
    after the rise. The weights of models in users' caches depend on the difference.

    Args:
        step: counted from 1.
        max_steps: of the run.
        learning_rate: of the cosine at its top.
        warmup_steps: in which the rate rises.
    """
    rise = min(1.0, step / warmup_steps)
    return learning_rate * (rise * 0.5 * (1.0 + math.cos(math.pi * (step - 1) / max_steps)))


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Let the next steps have this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def step_if_finite(optimizer: torch.optim.Optimizer, loss: float, grad_norm: float) -> bool:
    """Make a step, unless the loss or the norm of its gradient is not finite; returns whether it was made."""
    is_finite = math.isfinite(loss) and math.isfinite(grad_norm)
    if is_finite:
        optimizer.step()
    return is_finite


@contextmanager
def before_weights_change(act: Callable[[], None]) -> Iterator[None]:
    """Within, `act` is called whenever an optimizer is about to change weights."""
    handle = register_optimizer_step_pre_hook(lambda *_: act())
    try:
        yield
    finally:
        handle.remove()
