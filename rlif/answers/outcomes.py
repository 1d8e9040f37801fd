"""How a completion came out: right, wrong, or without an answer. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

from rlif.answers.agreement import majorities
from rlif.answers.extract import Stated
from rlif.answers.matching import GoldAnswer, is_right


class Outcome(IntEnum):
    """How a completion came out; the number is the place of its rating among those that a verification may state."""

    RIGHT = 0
    WRONG = 1
    UNANSWERED = 2


def gold_outcomes(stated: Sequence[Stated | None], answers: Sequence[GoldAnswer | None]) -> list[Outcome | None]:
    """Say of n completions how they came out by their gold answers; None for an answer that has no gold one."""
    return [_outcome(each, gold) for each, gold in zip(stated, answers, strict=True)]


def majority_outcomes(stated: Sequence[Stated | None], num_generations: int) -> list[Outcome | None]:
    """Say of n completions how they came out by the most common answer of their group, which stands for the right one.

    An answer in a group in which no two agree is neither right nor wrong: None.
    """
    outcomes: list[Outcome | None] = [_outcome(each, None) for each in stated]
    for number, majority in enumerate(majorities(stated, num_generations)):
        if len(majority) > 1:
            for row in range(number * num_generations, (number + 1) * num_generations):
                if stated[row] is not None:
                    outcomes[row] = Outcome.RIGHT if row in majority else Outcome.WRONG
    return outcomes


def _outcome(stated: Stated | None, gold: GoldAnswer | None) -> Outcome | None:
    if stated is None:
        return Outcome.UNANSWERED
    if gold is None:
        return None
    return Outcome.RIGHT if is_right(stated.text, gold) else Outcome.WRONG
