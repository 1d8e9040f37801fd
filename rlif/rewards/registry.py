"""The built-in rewards by name, and what the words of `--reward` stand for. Loads no torch, for the command line."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from typing import NamedTuple

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
from rlif.rewards.interface import RewardFunction
from rlif.rewards.outcome import rise, rise_majority
from rlif.rewards.verbalized import rlcr, rlcr_majority, verbalized_confidence, verbalized_extremes

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
    "rise": rise,
    "rise_majority": rise_majority,
    "rlcr": rlcr,
    "rlcr_majority": rlcr_majority,
    "verbalized_confidence": verbalized_confidence,
    "verbalized_extremes": verbalized_extremes,
}
# The rewards of arXiv 2506.17219 and agreement, which needs no labels either: what `rlif diagnose` judges unless told
# otherwise, and what the lab trains on.
INTERNAL = ("self_certainty", "token_entropy", "trajectory_entropy", "majority_vote")
REWARD_MODEL = "reward_model:"


class RewardSpec(NamedTuple):
    """One reward as the user named it."""

    path: str
    """A name of `REWARDS`, `package.module:function`, `file.py:function`, or `reward_model:DIRECTORY`."""
    name: str
    """Of its metric: without module and weight."""
    weight: float


def read_specs(specs: str | Sequence[str]) -> list[RewardSpec]:
    """Read one or several rewards, each with =WEIGHT after it or not (then 1), and check names and weights.

    Functions and reward models are not looked for: `load_rewards` does that.

    Raises:
        UserError: no reward at all, one that there is not or that is named twice, a weight that is not a number.
    """
    found: list[RewardSpec] = []
    for spec in map(_read_spec, [specs] if isinstance(specs, str) else specs):
        if ":" not in spec.path and spec.path not in REWARDS:
            near = difflib.get_close_matches(spec.path, REWARDS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(
                f"reward: got {spec.path!r}, expected one of {', '.join(REWARDS)}, or module:function{hint}"
            )
        if spec.name in [other.name for other in found]:
            raise UserError(f"reward: {spec.name!r} is named twice, expected each reward once, with its weight")
        found.append(spec)
    if not found:
        raise UserError(f"reward: got none, expected at least one of {', '.join(REWARDS)}")
    if all(spec.weight == 0 for spec in found):
        raise UserError("reward: every weight is 0, expected one that is not")
    return found


def reward_names(specs: str | Sequence[str]) -> list[str]:
    """Return the name of each reward, as in its metric: without module and weight."""
    return [_read_spec(spec).name for spec in ([specs] if isinstance(specs, str) else specs)]


def _read_spec(spec: str) -> RewardSpec:
    path, equals, written = spec.rpartition("=")
    if not equals or ":" in written:  # a path may hold an equals sign
        return RewardSpec(spec, _name(spec), 1.0)
    try:
        weight = float(written)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise UserError(f"reward: got the weight {written!r} in {spec!r}, expected a finite number")
    return RewardSpec(path, _name(path), weight)


def _name(path: str) -> str:
    return REWARD_MODEL.rstrip(":") if path.startswith(REWARD_MODEL) else path.rpartition(":")[2]
