"""Rewards for saying how sure one is, in words (RLCR, arXiv 2507.16806).

A completion is to end with its answer, an analysis of what may be wrong, and a confidence between 0 and 1, each between
tags (`rlif.answers.tags`). All rewards here take the answer of the tag.
"""

from __future__ import annotations

from rlif.answers.agreement import majorities
from rlif.answers.extract import Stated, stated_answer
from rlif.answers.matching import GoldAnswer, is_right
from rlif.answers.tags import Tagged, read_tags, strict_confidence
from rlif.rewards.interface import uses

# Weights of format, of being right, and of the Brier part, as the authors trained.
FORMAT, CORRECT, BRIER = 0.5, 0.5, 0.5


@uses(answers=True, form=True)
def rlcr(completions: list[str], answers: list[GoldAnswer | None]) -> list[float]:
    """Reward format, right answers and calibration: 0.5 + 0.5 c + 0.5 (1 - (c - q)²) (RLCR, arXiv 2507.16806).

    Here c is 1 for a right answer, else 0, and q the confidence. A completion whose tags do not stand as they should,
    or whose confidence is no number from 0 to 1, gets 0. Of any belief the best q is that belief itself, since (c - q)²
    is the Brier score.
    """
    tags = [read_tags(text) for text in completions]
    right = [
        float(stated is not None and gold is not None and is_right(stated.text, gold))
        for stated, gold in zip(_stated(tags, completions), answers, strict=True)
    ]
    return _rewards(tags, right)


@uses(form=True)
def rlcr_majority(completions: list[str], num_generations: int) -> list[float]:
    """`rlcr` without labels: c is 1 for the most common answer of the group, so that q is to foretell agreement.

    The formula is that of arXiv 2507.16806 with the labels of TTRL (arXiv 2504.16084), which is our own combination.
    """
    tags = [read_tags(text) for text in completions]
    right = [0.0] * len(completions)
    for rows in majorities(_stated(tags, completions), num_generations):
        for row in rows:
            right[row] = 1.0
    return _rewards(tags, right)


@uses()
def verbalized_confidence(completions: list[str]) -> list[float | None]:
    """Return the confidence that a completion states, None for none: for its mean, with weight 0, beside `rlcr`."""
    return [strict_confidence(read_tags(text).confidence) for text in completions]


@uses()
def verbalized_extremes(completions: list[str]) -> list[float | None]:
    """1 for a stated confidence within 0.01 of 0 or 1, else 0: with weight 0, tells when all become certain."""
    stated = (strict_confidence(read_tags(text).confidence) for text in completions)
    return [None if each is None else float(min(each, 1 - each) <= 0.01) for each in stated]


def _stated(tags: list[Tagged], completions: list[str]) -> list[Stated | None]:
    """The answers between tags; of a box or a marker within one what that holds."""
    found: list[Stated | None] = []
    for each, text in zip(tags, completions, strict=True):
        if each.answer is None:
            found.append(None)
            continue
        within = text[slice(*each.answer)]
        found.append(stated_answer(within) or Stated(within, "tag", 0, len(within)))
    return found


def _rewards(tags: list[Tagged], right: list[float]) -> list[float]:
    """Put the parts together; 0 throughout where the form or the confidence is broken."""
    found = []
    for each, correct in zip(tags, right, strict=True):
        confidence = strict_confidence(each.confidence)
        if not each.well_formed or confidence is None:
            found.append(0.0)
        else:
            found.append(FORMAT + CORRECT * correct + BRIER * (1 - (correct - confidence) ** 2))
    return found
