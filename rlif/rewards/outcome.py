"""Rewards for how an attempt came out: right, wrong, or without an answer (RISE, arXiv 2505.13445).

The paper trains a policy to solve and to verify at once. The gold answer of a verification is a number for the outcome
of what is verified, so that `rise` rewards both kinds.
"""

from __future__ import annotations

from rlif.answers.extract import Stated
from rlif.answers.matching import GoldAnswer
from rlif.answers.outcomes import Outcome, gold_outcomes, majority_outcomes
from rlif.rewards.interface import uses

# As in the paper.
OUTCOME_REWARDS = {Outcome.RIGHT: 1.0, Outcome.WRONG: -0.5, Outcome.UNANSWERED: -1.0}


@uses(answers=True)
def rise(stated: list[Stated | None], answers: list[GoldAnswer | None]) -> list[float | None]:
    """1 for a right answer, -0.5 for a wrong one, -1 for none (RISE, arXiv 2505.13445)."""
    return [each if each is None else OUTCOME_REWARDS[each] for each in gold_outcomes(stated, answers)]


@uses()
def rise_majority(stated: list[Stated | None], num_generations: int) -> list[float | None]:
    """`rise` without labels: the group's most common answer is taken for the right one; None where no two agree.

    The numbers are those of arXiv 2505.13445 with the labels of TTRL (arXiv 2504.16084), which is our own combination.
    """
    return [each if each is None else OUTCOME_REWARDS[each] for each in majority_outcomes(stated, num_generations)]
