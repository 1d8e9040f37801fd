"""The held-out prompts that the guard watches: which they are, and whether they are labelled."""

from __future__ import annotations

import random
from collections.abc import Sequence

from rlif.errors import UserError
from rlif.rollouts.encode import EncodedPrompt
from rlif.training.evidence import MIN_COMPARED_PROMPTS
from rlif.training.options import TrainConfig

# Fewer prompts than these say too little to be worth taking them from the training set.
MIN_HELD_OUT = 8


def held_out(prompts: list[EncodedPrompt], limit: int, seed: int) -> tuple[list[EncodedPrompt], list[EncodedPrompt]]:
    """Hold prompts out of training for the guard: a random tenth of the distinct ones, at most `limit`; return both.

    Where a tenth would be fewer than `MIN_HELD_OUT`, nothing is held out, and the guard watches training prompts.
    """
    generator = random.Random(f"guard {seed}")
    different = list({tuple(prompt.ids): prompt for prompt in reversed(prompts)}.values())[::-1]
    count = min(limit, len(different) // 10)
    if count < min(limit, MIN_HELD_OUT):
        return prompts, generator.sample(different, min(limit, len(different)))
    chosen = generator.sample(different, count)
    known = {tuple(prompt.ids) for prompt in chosen}
    return [prompt for prompt in prompts if tuple(prompt.ids) not in known], chosen


def check_guard_labels(config: TrainConfig, prompts: Sequence[EncodedPrompt]) -> None:
    """Check that the guard can go by gold answers, where it is told to.

    Raises:
        UserError: fewer than half of the held-out prompts have one.
    """
    with_answer = sum(prompt.answer is not None for prompt in prompts)
    if config.guard != "off" and config.guard_labels == "gold" and with_answer < MIN_COMPARED_PROMPTS * len(prompts):
        raise UserError(
            f"guard_labels: got 'gold', but {with_answer} of {len(prompts)} held-out prompts have a gold answer "
            f"(`{config.answer_column}`); expected at least {MIN_COMPARED_PROMPTS:.0%}, or guard_labels majority"
        )
