"""Advantages within a group: group-relative policy optimisation (GRPO, arXiv 2402.03300)."""

from __future__ import annotations

from torch import Tensor

# As in TRL: keeps a group whose rewards differ by rounding alone from being blown up to unit variance.
STD_EPSILON = 1e-4


def group_advantages(rewards: Tensor, num_generations: int, std: Tensor | float | None = None) -> Tensor:
    """(reward - mean) / (std + 1e-4), with the mean of each group and, by default, its unbiased standard deviation.

    Args:
        rewards: (N,) float32, the `num_generations` completions of one prompt side by side.
        num_generations: at least 2; divides N.
        std: () another scale for all groups, as that of the whole batch (Lite PPO, arXiv 2508.08221).

    Returns:
        (N,) float32; 0 throughout a group whose rewards are all equal.
    """
    groups = rewards.view(-1, num_generations)
    centred = groups - groups.mean(dim=1, keepdim=True)
    scale = groups.std(dim=1, keepdim=True) if std is None else std
    # The mean of equal numbers may differ from them by rounding, which the division would make a push for all alike.
    # Rewards that are not finite must stay so: the step is then skipped.
    return (centred / (scale + STD_EPSILON)).masked_fill(equal_groups(rewards, num_generations)[:, None], 0.0).flatten()


def unscaled_advantages(rewards: Tensor, num_generations: int) -> Tensor:
    """reward - mean of the group (Dr. GRPO, arXiv 2503.20783), of and as (N,) float32."""
    return group_advantages(rewards, num_generations, std=1.0 - STD_EPSILON)


def equal_groups(rewards: Tensor, num_generations: int) -> Tensor:
    """Tell which groups have nothing to compare, all their rewards being the same finite number: (groups,) bool."""
    groups = rewards.view(-1, num_generations)
    largest, smallest = groups.amax(dim=1), groups.amin(dim=1)
    return (largest == smallest) & largest.isfinite()
