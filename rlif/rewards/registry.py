"""The rewards by the names that the command line knows them by."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlif.errors import UserError
from rlif.rewards.agreement import majority_vote, semantic_entropy
from rlif.rewards.confidence import (
    probability_disparity,
    self_certainty,
    sequence_logprob,
    token_entropy,
    trajectory_entropy,
)
from rlif.rewards.controls import format_reward, random_reward, verifiable
from rlif.rewards.interface import Reward, RewardFunction, describe
from rlif.rewards.mixture import Aggregation, RewardMixture
from rlif.rewards.reward_model import REWARD_MODEL, LearnedReward
from rlif.rewards.user_function import import_function

if TYPE_CHECKING:
    pass


REWARDS: dict[str, RewardFunction] = {
    "self_certainty": self_certainty,
    "token_entropy": token_entropy,
    "trajectory_entropy": trajectory_entropy,
    "sequence_logprob": sequence_logprob,
    "probability_disparity": probability_disparity,
    "majority_vote": majority_vote,
    "semantic_entropy": semantic_entropy,
    "format": format_reward,
    "random": random_reward,
    "verifiable": verifiable,
}


def load_rewards(
    specs: str | Sequence[str], *, aggregation: Aggregation = "sum_then_normalize", seed: int = 0
) -> RewardMixture:
    """The mixture that `--reward` asks for, checked before any work.

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
    if not specs:
        raise UserError(f"reward: got none, expected at least one of {', '.join(REWARDS)}")
    rewards: list[Reward] = []
    for path, name, weight in _split(specs):
        if path.startswith(REWARD_MODEL):
            function: RewardFunction = LearnedReward(path.removeprefix(REWARD_MODEL))
        elif ":" in path:
            function = import_function(path)
        elif path in REWARDS:
            function = REWARDS[path]
        else:
            near = difflib.get_close_matches(path, REWARDS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(f"reward: got {path!r}, expected one of {', '.join(REWARDS)}, or module:function{hint}")
        if name in [reward.name for reward in rewards]:
            raise UserError(f"reward: {name!r} is named twice, expected each reward once, with its weight")
        reward = describe(name, function, weight)
        _check_outputs(reward)
        rewards.append(reward)
    if all(reward.weight == 0 for reward in rewards):
        raise UserError("reward: every weight is 0, expected one that is not")
    return RewardMixture(tuple(rewards), aggregation, seed)


def reward_names(specs: str | Sequence[str]) -> list[str]:
    """The name of each reward, as in its metric: without module and weight."""
    return [name for _, name, _ in _split(specs)]


def _split(specs: str | Sequence[str]) -> list[tuple[str, str, float]]:
    """Path, name and weight of every reward."""
    return [_split_one(spec) for spec in ([specs] if isinstance(specs, str) else specs)]


def _split_one(spec: str) -> tuple[str, str, float]:
    path, equals, written = spec.rpartition("=")
    if not equals or ":" in written:  # a path may hold an equals sign
        return spec, _name(spec), 1.0
    try:
        weight = float(written)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise UserError(f"reward: got the weight {written!r} in {spec!r}, expected a finite number")
    return path, _name(path), weight


def _name(path: str) -> str:
    return REWARD_MODEL.rstrip(":") if path.startswith(REWARD_MODEL) else path.rpartition(":")[2]


def _check_outputs(reward: Reward) -> None:
    if reward.function in REWARDS.values():
        return
    from rlif_kernels import TokenStats  # loads torch, which a user's function is likely to have done anyway

    unknown = [field for field in reward.outputs if field not in TokenStats._fields]
    if unknown:
        raise UserError(
            f"reward: {reward.name} uses {', '.join(map(repr, unknown))}, expected some of "
            f"{', '.join(TokenStats._fields)}"
        )


INTERNAL = ("self_certainty", "token_entropy", "trajectory_entropy", "majority_vote")
