"""What the loop asks of accelerate: where to run, and what all processes know together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from rlif.models.language_model import resolve_device
from rlif.rollouts.rollout import Rollout

T = TypeVar("T")


def make_accelerator(device: str, report_to: tuple[str, ...], run_dir: Path) -> Accelerator:
    """The processes that `accelerate launch` started, or this one alone, on the device that the user wants.

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


def summed(accelerator: Accelerator, numbers: Mapping[str, float]) -> dict[str, float]:
    """Each number added up over the processes; all of them bring the same names."""
    if accelerator.num_processes == 1:
        return dict(numbers)
    # The backends of some devices have no float64; counts of tokens need more than float32.
    values = torch.tensor(list(numbers.values()), dtype=torch.float64)
    high = values.float()
    pairs = torch.stack([high, (values - high.double()).float()]).to(accelerator.device)
    gathered = accelerator.gather(pairs[None]).double().sum(dim=(0, 1))
    return dict(zip(numbers, gathered.tolist(), strict=True))


def largest(accelerator: Accelerator, number: float) -> float:
    """The largest of the processes' numbers."""
    if accelerator.num_processes == 1:
        return number
    return float(accelerator.gather(torch.tensor([number], device=accelerator.device)).max())


def from_first(accelerator: Accelerator, thing: T) -> T:
    """The first process's thing."""
    things = [thing]
    if accelerator.num_processes > 1:
        broadcast_object_list(things)
    return things[0]


def batch_std(accelerator: Accelerator, rewards: Tensor) -> float:
    """Unbiased standard deviation of the rewards (N,) of all processes together."""
    totals = summed(accelerator, {"count": len(rewards), "sum": rewards.double().sum().item()})
    mean = totals["sum"] / totals["count"]
    squares = summed(accelerator, {"squares": (rewards.double() - mean).square().sum().item()})["squares"]
    return (squares / (totals["count"] - 1)) ** 0.5


def equal_parts(accelerator: Accelerator, parts: list[list[int]]) -> tuple[list[list[int]], int]:
    """As many parts on every process, and how many of them are real; the others, of one row each, must count nothing.

    A process that went forward or backward less often than the others would leave them waiting.
    """
    count = max(1, int(largest(accelerator, len(parts))))
    filler = parts[-1][:1] if parts else [0]
    return parts + [filler] * (count - len(parts)), len(parts)


def shards(scorer: nn.Module) -> list[FSDPModule]:
    """The modules whose weights FSDP divides over the processes, from the whole to its parts; none without FSDP."""
    return [module for module in scorer.modules() if isinstance(module, FSDPModule)]


@contextmanager
def gathered(accelerator: Accelerator, scorer: nn.Module) -> Iterator[None]:
    """Within, the model can be called as it is: under FSDP every process holds all of its weights.

    Sampling takes as many forwards as its longest completion has tokens, and processes differ in that. With all weights
    at hand they need not wait for each other.
    """
    for module in shards(scorer):
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in shards(scorer):
            module.set_reshard_after_forward(accelerator.state.fsdp_plugin.reshard_after_forward, recurse=False)
            module.reshard()


def ready_for_parts(scorer: nn.Module, one_token: Rollout) -> None:
    """Let parts of the scorer be called: FSDP wants the whole to have gone forward before."""
    if shards(scorer):
        with torch.no_grad():
            scorer(one_token, 1.0)
        divide(scorer)


def divide(scorer: nn.Module) -> None:
    """Under FSDP, give the weights back to the processes: after a forward without backward some are still whole."""
    for module in shards(scorer):
        module.reshard()


def full_state_dict(accelerator: Accelerator, scorer: nn.Module) -> dict[str, Tensor] | None:
    """All weights of the scorer's model by name, for `save_pretrained`; None where it has them at hand anyway.

    Under FSDP every process has to call this.
    """
    if not shards(scorer):
        return None
    # A weight that is tied to another comes under both names, and would be written twice.
    names = {name for name, _ in [*scorer.named_parameters(), *scorer.named_buffers()]}
    weights = accelerator.get_state_dict(scorer)
    return {name.removeprefix("model."): value for name, value in weights.items() if name in names}
