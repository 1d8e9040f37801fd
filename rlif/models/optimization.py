"""How far each optimizer step goes: the learning rate over a run, no step where the numbers are not finite, and how
many weights a step moves at all."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from rlif.models.master_weights import MASTER, WIDE, MasterWeightsAdamW
from rlif.options.groups import OptimizerOptions

# Numbers of each weight tensor that are looked at, evenly spaced, to tell how many move.
MOVED_SAMPLE = 1024
# Of those, a share below which a training learns little but rounding.
FEW_MOVED = 0.1


def adamw(parameters: Iterable[nn.Parameter], options: OptimizerOptions) -> torch.optim.Optimizer:
    """Make the optimizer of those parameters that want gradients, with master weights where they are of half precision.

    Args:
        parameters: of a model.
        options: of which weight_decay and master_weights count here.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    is_coarse = any(parameter.dtype not in WIDE for parameter in trained)
    kind = MasterWeightsAdamW if options.master_weights and is_coarse else torch.optim.AdamW
    return kind(trained, weight_decay=options.weight_decay, fused=True)


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


@dataclass
class MovedWeights:
    """How many weights the optimizer's steps have moved, of a sample of those that had a gradient.

    A master weight moves where its weight of half precision, which is the same rounded, may not yet.
    """

    moved: int = 0
    counted: int = 0

    @property
    def share(self) -> float:
        """Moved of counted; NaN where none had a gradient."""
        return self.moved / self.counted if self.counted else math.nan

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Make a step of the optimizer, and count."""
        before = list(_with_gradient(optimizer))
        optimizer.step()
        for old, new in zip(before, _with_gradient(optimizer), strict=True):
            self.moved += int((old != new).sum())
            self.counted += len(old)


@torch.no_grad()
def _with_gradient(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    """Copy a sample of each parameter's weights, of those whose gradient is not 0; of shards this process's own."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            weight = optimizer.state.get(parameter, {}).get(MASTER, parameter)
            weight, gradient = (_local(each.detach()).flatten() for each in (weight, parameter.grad))
            stride = max(1, len(weight) // MOVED_SAMPLE)
            yield weight[::stride][gradient[::stride] != 0]


def _local(value: Tensor) -> Tensor:
    return value.to_local() if isinstance(value, DTensor) else value


def step_if_finite(optimizer: torch.optim.Optimizer, loss: float, grad_norm: float, moved: MovedWeights) -> bool:
    """Make a step, unless the loss or the norm of its gradient is not finite; returns whether it was made."""
    is_finite = math.isfinite(loss) and math.isfinite(grad_norm)
    if is_finite:
        moved.step(optimizer)
    return is_finite


@contextmanager
def before_weights_change(act: Callable[[], None]) -> Iterator[None]:
    """Within, `act` is called whenever an optimizer is about to change weights."""
    handle = register_optimizer_step_pre_hook(lambda *_: act())
    try:
        yield
    finally:
        handle.remove()


def rounded_away(share: float, options: OptimizerOptions, dtype: str) -> str | None:
    """Say that most updates are lost to rounding, and what helps, if few weights moved; None if enough did.

    Args:
        share: of `MovedWeights`, or NaN.
        options: of the optimizer.
        dtype: of the weights.
    """
    if not share < FEW_MOVED:
        return None
    helps = "master_weights" if dtype != "float32" and not options.master_weights else "a higher learning_rate"
    return (
        f"{share:.1%} of the weights that have a gradient moved in this step: the others' updates are smaller than the "
        f"rounding of their dtype, {dtype}; expected at least {FEW_MOVED:.0%}, for which {helps} may help"
    )
