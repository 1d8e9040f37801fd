"""Rewards for agreeing with the rest of a group: the majority's answer, and the share that states the same."""

from __future__ import annotations

from rlif.answers.agreement import agreeing
from rlif.answers.extract import Stated
from rlif.rewards.interface import uses


@uses()
def majority_vote(stated: list[Stated | None], num_generations: int) -> list[float]:
    """1 if the answer is the most common one of the completion's group, else 0 (TTRL, arXiv 2504.16084).

    Of answers equally common the one that comes first wins. Completions that state none have no vote and get 0.
    """
    rewards = [0.0] * len(stated)
    for clusters in agreeing(stated, num_generations):
        for row in max(clusters, key=len, default=()):
            rewards[row] = 1.0
    return rewards


@uses()
def semantic_entropy(stated: list[Stated | None], num_generations: int) -> list[float]:
    """Return the share of the completion's group that states the same answer (EMPO, arXiv 2504.05812).

    0 for a completion that states none, and throughout a group in which no two agree.
    """
    rewards = [0.0] * len(stated)
    for clusters in agreeing(stated, num_generations):
        if any(len(cluster) > 1 for cluster in clusters):
            for cluster in clusters:
                for row in cluster:
                    rewards[row] = len(cluster) / num_generations
    return rewards
