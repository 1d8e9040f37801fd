"""Advantages within a group: group-relative policy optimisation (GRPO, arXiv 2402.03300)."""

from __future__ import annotations

import torch
from torch import Tensor

# As in TRL: keeps a group whose rewards differ by rounding alone from being blown up to unit variance.
STD_EPSILON = 1e-4


def group_advantages(rewards: Tensor, num_generations: int, std: Tensor | float | None = None) -> Tensor:
    """(reward - mean) / (std + 1e-4), with the mean of each group and, by default, its unbiased standard deviation.

    Args:
        rewards: (N,) of any float type, the `num_generations` completions of one prompt side by side. NaN where a
            completion has none: it is left out of its group.
        num_generations: at least 2; divides N.
        std: () another scale for all groups, as that of the whole batch (Lite PPO, arXiv 2508.08221).

    Returns:
        (N,) of the same type; 0 throughout a group whose rewards are all equal, and for a completion without a reward.
    """
    groups = rewards.view(-1, num_generations)
    mean, spread = mean_and_std(groups)
    scale = spread if std is None else std
    # The mean of equal numbers may differ from them by rounding, which the division would make a push for all alike.
    # Rewards that are not finite must stay so: the step is then skipped.
    nothing = equal_groups(rewards, num_generations)[:, None] | groups.isnan()
    return ((groups - mean) / (scale + STD_EPSILON)).masked_fill(nothing, 0.0).flatten()


def unscaled_advantages(rewards: Tensor, num_generations: int) -> Tensor:
    """reward - mean of the group (Dr. GRPO, arXiv 2503.20783), of and as (N,) floats; see `group_advantages`."""
    return group_advantages(rewards, num_generations, std=1.0 - STD_EPSILON)


def mean_and_std(groups: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased standard deviation of each row of (groups, n) rewards, (groups, 1) each, without those NaN.

    The standard deviation of a row with fewer than two is NaN.
    """
    there = ~groups.isnan()
    count = there.sum(dim=1, keepdim=True)
    mean = groups.where(there, 0.0).sum(dim=1, keepdim=True) / count
    squares = (groups - mean).square().where(there, 0.0).sum(dim=1, keepdim=True)
    return mean, (squares / (count - 1)).sqrt()


def equal_groups(rewards: Tensor, num_generations: int) -> Tensor:
    """Tell which groups have nothing to compare: (groups,) bool, True where all rewards are the same finite number.

    NaN stands for no reward; a group with fewer than two has nothing to compare either.
    """
    groups = rewards.view(-1, num_generations)
    there = ~groups.isnan()
    largest = groups.masked_fill(~there, -torch.inf).amax(dim=1)
    smallest = groups.masked_fill(~there, torch.inf).amin(dim=1)
    return (largest == smallest) & largest.isfinite() | ~there.any(dim=1)
