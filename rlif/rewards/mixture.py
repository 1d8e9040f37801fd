"""Weighted sums of rewards, and the names by which the command line knows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from rlif.rewards.interface import Reward, call, reward_inputs

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from rlif.rollouts.rollout import Rollout
    from rlif_kernels import TokenStats

Aggregation = Literal["sum_then_normalize", "normalize_then_sum"]


class Rewards(NamedTuple):
    """Rewards of n completions, detached."""

    total: Tensor
    """(n,) float32, the weighted sum."""
    parts: dict[str, Tensor]
    """(n,) float32 by name: the values of each reward, neither normalised nor weighted."""


@dataclass(frozen=True)
class RewardMixture:
    """Several rewards as one. Made by `load_rewards`."""

    rewards: tuple[Reward, ...]
    aggregation: Aggregation
    seed: int

    @property
    def outputs(self) -> tuple[str, ...]:
        """The fields of `TokenStats` that the rewards read, each once."""
        return tuple(dict.fromkeys(field for reward in self.rewards for field in reward.outputs))

    @property
    def needs_answers(self) -> bool:
        """Whether every training prompt must have a gold answer."""
        return any(reward.needs_answers for reward in self.rewards)

    def __call__(
        self, stats: TokenStats, rollout: Rollout, *, tokenizer: PreTrainedTokenizerBase, step: int
    ) -> Rewards:
        """Reward the completions of whole groups.

        Args:
            stats: (n, T) fields, at least those of `outputs`, 0 outside the completion mask.
            rollout: the n completions that the statistics belong to.
            tokenizer: that made them.
            step: of training, from 1.

        Raises:
            UserError: a reward function raises, or does not return one finite number per completion.
        """
        import torch

        from rlif.rewards.advantages import group_advantages

        device = rollout.completion_ids.device
        inputs = reward_inputs(stats, rollout, tokenizer=tokenizer, step=step, seed=self.seed)
        parts = {reward.name: call(reward, inputs, rollout.prompts, device) for reward in self.rewards}
        values = parts
        if self.aggregation == "normalize_then_sum":
            values = {name: group_advantages(part, rollout.num_generations) for name, part in parts.items()}
        total = torch.stack([reward.weight * values[reward.name] for reward in self.rewards]).sum(dim=0)
        return Rewards(total, parts)
