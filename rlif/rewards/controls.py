"""Rewards that internal ones are compared with: two controls that know nothing, and right answers."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from rlif.answers.extract import Stated
from rlif.answers.matching import GoldAnswer, is_right
from rlif.rewards.interface import uses


@uses()
def format_reward(stated: list[Stated | None]) -> list[float]:
    """1 if the completion states an answer, right or wrong, else 0: a control (arXiv 2506.10947)."""
    return [float(each is not None) for each in stated]


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
def verifiable(stated: Sequence[Stated | None], answers: Sequence[GoldAnswer | None]) -> list[float]:
    """1 if the stated answer is right by the gold one, else 0: the baseline that needs labels (RLVR).

    `rlif.answers.matching` says what is right: numbers and mathematics by value, else the same text. Of several gold
    answers any will do.
    """
    return [
        float(each is not None and gold is not None and is_right(each.text, gold))
        for each, gold in zip(stated, answers, strict=True)
    ]
