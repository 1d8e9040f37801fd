"""Several rewards as one: loaded by their names, called with what they ask for, checked, and added up."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlif.errors import UserError
from rlif.rewards.advantages import group_advantages
from rlif.rewards.interface import Aggregation, Reward, RewardFunction, describe_reward, describe_user_error
from rlif.rewards.registry import REWARD_MODEL, REWARDS, read_specs
from rlif.rewards.reward_model import LearnedReward
from rlif.rewards.user_function import import_function
from rlif.rollouts.rollout import Rollout
from rlif_kernels import TokenStats

# Of a reward: its square, and sums of squares, are far from what float64 holds.
LARGEST = torch.finfo(torch.float32).max


class Rewards(NamedTuple):
    """Rewards of n completions, detached."""

    total: Tensor
    """(n,) float64 on the CPU, the weighted sum of those that apply; NaN where none does."""
    parts: dict[str, Tensor]
    """(n,) float64 by name: the values of each reward, neither normalised nor weighted; NaN where it does not apply."""


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
            UserError: a reward function raises, or does not return a finite number, or None, for each completion.
        """
        inputs = reward_inputs(stats, rollout, tokenizer=tokenizer, step=step, seed=self.seed)
        parts = {reward.name: call(reward, inputs, rollout.prompts) for reward in self.rewards}
        values = parts
        if self.aggregation == "normalize_then_sum":
            values = {name: group_advantages(part, rollout.num_generations) for name, part in parts.items()}
        total = torch.stack([reward.weight * values[reward.name] for reward in self.rewards]).nansum(dim=0)
        applies = torch.stack([~part.isnan() for part in parts.values()]).any(dim=0)
        return Rewards(total.where(applies, math.nan), parts)


def load_rewards(
    specs: str | Sequence[str], *, aggregation: Aggregation = "sum_then_normalize", seed: int = 0
) -> RewardMixture:
    """Load the mixture that `--reward` asks for, checked before any work.

    Args:
        specs: one or several, each a name of `REWARDS`, `package.module:function`, `file.py:function` or
            `reward_model:DIRECTORY`, with `=WEIGHT` after it or not (then 1). A weight of 0 makes a metric that is not
            optimised.
        aggregation: TRL's `multi_objective_aggregation`. "sum_then_normalize": the weighted sum is what is compared
            within a group. "normalize_then_sum": each reward is first brought to mean 0 and standard deviation 1
            within its group, so that weights compare rewards of any scale (GDPO, arXiv 2601.05242).
        seed: of the random reward.

    Raises:
        UserError: no reward at all, one that there is not or that is named twice, a weight that is not a number.
    """
    rewards = []
    for path, name, weight in read_specs(specs):
        if path.startswith(REWARD_MODEL):
            function: RewardFunction = LearnedReward(path.removeprefix(REWARD_MODEL))
        else:
            function = import_function(path) if ":" in path else REWARDS[path]
        reward = describe_reward(name, function, weight)
        unknown = [field for field in reward.outputs if field not in TokenStats._fields]
        if unknown:
            raise UserError(
                f"reward: {name} uses {', '.join(map(repr, unknown))}, expected some of {', '.join(TokenStats._fields)}"
            )
        rewards.append(reward)
    return RewardMixture(tuple(rewards), aggregation, seed)


def reward_inputs(
    stats: TokenStats, rollout: Rollout, *, tokenizer: PreTrainedTokenizerBase, step: int, seed: int
) -> dict[str, object]:
    """Collect the `INPUTS` of the completions of a rollout.

    Args:
        stats: (n, T) fields, 0 outside the completion mask.
        rollout: the n completions that the statistics belong to.
        tokenizer: that made them.
        step: of training, from 1.
        seed: the run's.
    """
    return {
        "prompts": rollout.prompts,
        "completions": rollout.texts,
        "prompt_ids": rollout.prompt_ids,
        "prompt_mask": rollout.prompt_mask,
        "completion_ids": rollout.completion_ids,
        "completion_mask": rollout.completion_mask,
        "stats": stats._replace(**{k: v.detach() for k, v in stats._asdict().items() if v is not None}),
        "stated": rollout.stated,
        "answers": rollout.answers,
        "finished": rollout.finished,
        "num_generations": rollout.num_generations,
        "tokenizer": tokenizer,
        "step": step,
        "seed": seed,
    }


def call(reward: Reward, inputs: Mapping[str, object], prompts: list[str]) -> Tensor:
    """Call a reward function, and check what it returns.

    Args:
        reward: to call.
        inputs: every keyword argument that there is; the function gets those that it takes.
        prompts: n prompts, to say where a value is wrong.

    Returns:
        (n,) float64 on the CPU, detached; NaN for a completion to which the reward does not apply: the function
        returned None for it, as reward functions do that are written for TRL.

    Raises:
        UserError: the function raises, or does not return a finite number, or None, for each completion.
    """
    where = f"reward {reward.name}"
    try:
        with torch.no_grad():
            values = reward.function(**reward.arguments(inputs))
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # whatever the user's function raises; none of it ends the run quietly
        raise UserError(f"{where}: raised {describe_user_error(error)}") from error
    count = len(prompts)
    if hasattr(values, "tolist"):  # a tensor of torch or an array of NumPy
        values = values.tolist()
    if not isinstance(values, list | tuple):
        raise UserError(f"{where}: returned {_shorten(values)}, expected a list or tensor of {count} numbers")
    if len(values) != count:
        raise UserError(f"{where}: returned {len(values)} values, expected {count}: one number per completion")
    rewards = torch.full((count,), math.nan, dtype=torch.float64)
    for row, value in enumerate(values):
        if value is None:
            continue
        number = value.item() if getattr(value, "shape", None) == () else value
        try:
            found = float(number) if isinstance(number, numbers.Real) else math.nan
        except OverflowError:  # more than float64 holds
            found = math.inf
        if not abs(found) <= LARGEST:
            raise UserError(
                f"{where}: returned {_shorten(number)} for completion {row + 1} of {count}, expected a finite number "
                f"(prompt {_shorten(prompts[row])})"
            )
        rewards[row] = found
    return rewards


def _shorten(value: object, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
