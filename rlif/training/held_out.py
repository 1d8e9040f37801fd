"""The held-out prompts that the guard watches: which they are, and whether they are labelled."""

from __future__ import annotations

import random
from collections.abc import Sequence

from rlif.errors import UserError
from rlif.rollouts.encode import EncodedPrompt
from rlif.training.evidence import MIN_COMPARED_PROMPTS

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


def check_labelled(prompts: Sequence[EncodedPrompt], column: str, *, argument: str, hint: str = "") -> None:
    """Check that a guard that is told to go by gold answers can.

    Args:
        prompts: held out.
        column: of their gold answers.
        argument: that tells it to.
        hint: what else was to be expected, as an end of the sentence.

    Raises:
        UserError: fewer than half of the prompts have one.
    """
    labelled = sum(prompt.answer is not None for prompt in prompts)
    if labelled < MIN_COMPARED_PROMPTS * len(prompts):
        raise UserError(
            f"{argument}: got 'gold', but {labelled} of {len(prompts)} held-out prompts have a gold answer "
            f"(`{column}`); expected at least {MIN_COMPARED_PROMPTS:.0%}{hint}"
        )
