"""Rewards of completions: what the loop maximises, and how several become one.

`confidence.py` has those that need no label, only the policy's own distributions; `answers.py` those that read the
answers that completions state. A reward is a plain function that names what it wants to see (`interface.py` lists what
there is), so a user's own (`custom.py`) is written exactly like the built-in ones. `mixture.py` adds them up.

Imports no torch, so that the command line can check a name at once.
"""

from rlif.rewards.interface import Reward, RewardFunction, uses
from rlif.rewards.mixture import Aggregation, RewardMixture, Rewards
from rlif.rewards.registry import REWARDS, load_rewards, reward_names

__all__ = [
    "REWARDS",
    "Aggregation",
    "Reward",
    "RewardFunction",
    "RewardMixture",
    "Rewards",
    "load_rewards",
    "reward_names",
    "uses",
]
