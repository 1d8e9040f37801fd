"""Rewards that read the answers of completions: agreement within a group, equality with the gold one, two controls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

from rlif.answers import answers_match, extract_answer, matching_answers
from rlif.rewards.interface import uses


@uses()
def majority_vote(completions: list[str], num_generations: int) -> list[float]:
    """1 if the answer is the most common one of the completion's group, else 0 (TTRL, arXiv 2504.16084).

    Of answers equally common the one that comes first wins. Completions that state none have no vote and get 0.
    """
    rewards = [0.0] * len(completions)
    for clusters in agreeing(completions, num_generations):
        for row in max(clusters, key=len, default=()):
            rewards[row] = 1.0
    return rewards


@uses()
def semantic_entropy(completions: list[str], num_generations: int) -> list[float]:
    """The share of the completion's group that states the same answer (EMPO, arXiv 2504.05812).

    0 for a completion that states none, and throughout a group in which no two agree.
    """
    rewards = [0.0] * len(completions)
    for clusters in agreeing(completions, num_generations):
        if any(len(cluster) > 1 for cluster in clusters):
            for cluster in clusters:
                for row in cluster:
                    rewards[row] = len(cluster) / num_generations
    return rewards


@uses()
def format_reward(completions: list[str]) -> list[float]:
    """1 if the completion states an answer, right or wrong, else 0: a control (arXiv 2506.10947)."""
    return [float(extract_answer(text) is not None) for text in completions]


@uses()
def random_reward(prompts: list[str], num_generations: int, step: int, seed: int) -> list[float]:
    """0 or 1 with equal chances, whatever the completion: a control (arXiv 2506.10947).

    Seed, step, prompt and place in the group fix the draw, so a run repeats however it is divided or resumed.
    """
    rewards = []
    for start in range(0, len(prompts), num_generations):
        generator = Random(f"{seed} {step} {prompts[start]}")
        rewards += [float(generator.random() < 0.5) for _ in range(num_generations)]
    return rewards


@uses(answers=True)
def verifiable(completions: list[str], answers: list[str | None]) -> list[float]:
    """1 if the stated answer equals the gold one, else 0: the baseline that needs labels (RLVR).

    `rlif.answers.answers_match` says what is equal: numbers by value, mathematics by math-verify, else the same text.
    """
    return [
        float(answer is not None and gold is not None and answers_match(answer, gold))
        for answer, gold in zip(map(extract_answer, completions), answers, strict=True)
    ]


def agreeing(completions: Sequence[str], num_generations: int) -> Iterator[list[list[int]]]:
    """For each group the rows that state the same answer, as lists in the order in which the answers first appear."""
    for start in range(0, len(completions), num_generations):
        answers = [extract_answer(text) for text in completions[start : start + num_generations]]
        yield [[start + place for place in places] for places in matching_answers(answers)]
