"""A reward function for verl that rewards nothing, so that data without answers needs no verifier."""

from typing import Any


def no_reward(
    data_source: str, solution_str: str, ground_truth: Any, extra_info: Any = None, **reward_model: Any
) -> float:
    """0 for every response: with `algorithm.adv_estimator=intuitor` self-certainty is all that counts."""
    return 0.0
