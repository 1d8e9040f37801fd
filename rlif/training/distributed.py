"""The loop asks this module what it needs of accelerate: where to run, and what all processes know together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from rlif.errors import UserError
from rlif.models.language_model import resolve_device
from rlif.rollouts.rollout import Rollout

T = TypeVar("T")


def make_accelerator(device: str, report_to: tuple[str, ...], run_dir: Path) -> Accelerator:
    """Join the processes that `accelerate launch` started, or this one alone, on the device that the user wants.

    Trackers that keep files put them into the run's directory.

    Raises:
        UserError: torch cannot use the device.
    """
    target = resolve_device(device)
    if target.type == "cuda" and target.index is not None:
        torch.cuda.set_device(target)
    # Autocast would make the forward that learns another than the one that samples.
    return Accelerator(
        cpu=target.type == "cpu", mixed_precision="no", log_with=list(report_to) or None, project_dir=str(run_dir)
    )


def all_reduce_sum(accelerator: Accelerator, numbers: Mapping[str, float]) -> dict[str, float]:
    """Add each number up over the processes, which all bring the same names."""
    if accelerator.num_processes == 1:
        return dict(numbers)
    # The backends of some devices have no float64; counts of tokens need more than float32.
    values = torch.tensor(list(numbers.values()), dtype=torch.float64)
    high = values.float()
    pairs = torch.stack([high, (values - high.double()).float()]).to(accelerator.device)
    sums = accelerator.gather(pairs[None]).double().sum(dim=(0, 1))
    return dict(zip(numbers, sums.tolist(), strict=True))


def all_reduce_max(accelerator: Accelerator, number: float) -> float:
    """Return the largest of the processes' numbers."""
    if accelerator.num_processes == 1:
        return number
    return float(accelerator.gather(torch.tensor([number], device=accelerator.device)).max())


def gather_list(accelerator: Accelerator, items: Iterable[T]) -> list[T]:
    """Return the items of all processes, any objects that can be pickled, on every process: the first one's first."""
    own = list(items)
    return own if accelerator.num_processes == 1 else gather_object(own)


def broadcast(accelerator: Accelerator, value: T) -> T:
    """Return the first process's value, any object that can be pickled, on every process."""
    values = [value]
    if accelerator.num_processes > 1:
        broadcast_object_list(values)
    return values[0]


def on_first(accelerator: Accelerator, act: Callable[[], T]) -> T | None:
    """Do something on the first process alone, and return what it gives there; None on the others.

    Raises:
        UserError: on all processes, where it is raised on the first: the others would wait for that for ever.
    """
    made, fault = None, None
    if accelerator.is_main_process:
        try:
            made = act()
        except UserError as error:
            fault = error
    fault = broadcast(accelerator, fault)
    if fault is not None:
        raise fault
    return made


def batch_std(accelerator: Accelerator, rewards: Tensor) -> float:
    """Return the unbiased standard deviation of the rewards (N,) of all processes together, without those NaN."""
    rewards = rewards[~rewards.isnan()]
    totals = all_reduce_sum(accelerator, {"count": len(rewards), "sum": rewards.double().sum().item()})
    if totals["count"] < 2:
        return 0.0
    mean = totals["sum"] / totals["count"]
    squares = all_reduce_sum(accelerator, {"squares": (rewards.double() - mean).square().sum().item()})["squares"]
    return (squares / (totals["count"] - 1)) ** 0.5


def equal_turns(accelerator: Accelerator, parts: list[list[int]]) -> list[list[int] | None]:
    """Fill this process's parts up with None to the number of parts that the busiest process has.

    A process that went forward or backward less often than the others would leave them waiting: at a None it goes
    forward and backward like them, over something that counts nothing. The processes meet here, so this comes before
    the first of the forwards.
    """
    return [*parts, *[None] * (int(all_reduce_max(accelerator, len(parts))) - len(parts))]


def fsdp_modules(scorer: nn.Module) -> list[FSDPModule]:
    """List the modules whose weights FSDP shards, from the whole to its parts; none without FSDP."""
    return [module for module in scorer.modules() if isinstance(module, FSDPModule)]


@contextmanager
def unsharded(accelerator: Accelerator, scorer: nn.Module) -> Iterator[None]:
    """Let the model be called as it is: under FSDP every process holds all of its weights within this context.

    Sampling takes as many forwards as its longest completion has tokens, and processes differ in that. With all weights
    at hand they need not wait for each other.
    """
    for module in fsdp_modules(scorer):
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in fsdp_modules(scorer):
            module.set_reshard_after_forward(accelerator.state.fsdp_plugin.reshard_after_forward, recurse=False)
            module.reshard()


def initialize_fsdp(scorer: nn.Module, one_token: Rollout) -> None:
    """Go forward once, so that parts of the scorer can be called: FSDP initializes itself in a forward of the whole."""
    if fsdp_modules(scorer):
        with torch.no_grad():
            scorer(one_token, 1.0)
        reshard(scorer)


def reshard(scorer: nn.Module) -> None:
    """Free the weights of other processes' shards: after a forward without backward FSDP still holds some."""
    for module in fsdp_modules(scorer):
        module.reshard()


def full_state_dict(accelerator: Accelerator, scorer: nn.Module) -> dict[str, Tensor] | None:
    """Collect all weights of the scorer's model by name, for `save_pretrained`; None where it has them anyway.

    Under FSDP every process has to call this.
    """
    if not fsdp_modules(scorer):
        return None
    # A weight that is tied to another comes under both names, and would be written twice.
    names = {name for name, _ in [*scorer.named_parameters(), *scorer.named_buffers()]}
    weights = accelerator.get_state_dict(scorer)
    return {name.removeprefix("model."): value for name, value in weights.items() if name in names}
