"""Rewards of completions: what the loop maximises, and how several become one.

`confidence.py` has those that need no label, only the policy's own distributions; `agreement.py`, `controls.py` and
`outcome.py` those that read the answers that completions state. A reward is a plain function that names what it wants
to see (`interface.py` lists what there is), so a user's own (`user_function.py`) is written exactly like the built-in
ones. `registry.py` knows them by name, and `mixture.py` adds them up.

Importing this loads no torch, so that the command line can check a name at once: what needs torch is loaded when it is
first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rlif.rewards.interface import Aggregation, Reward, RewardFunction, uses
from rlif.rewards.registry import INTERNAL, REWARDS, read_specs, reward_names

if TYPE_CHECKING:
    from rlif.rewards.mixture import RewardMixture, Rewards, load_rewards

__all__ = [
    "INTERNAL",
    "REWARDS",
    "Aggregation",
    "Reward",
    "RewardFunction",
    "RewardMixture",
    "Rewards",
    "load_rewards",
    "read_specs",
    "reward_names",
    "uses",
]


def __getattr__(name: str) -> Any:
    """Load what needs torch when it is first used (PEP 562)."""
    if name in ("RewardMixture", "Rewards", "load_rewards"):
        return getattr(import_module("rlif.rewards.mixture"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
