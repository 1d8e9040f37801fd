"""This module finds which completions of a group state the same answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rlif.answers.extract import Stated
from rlif.answers.matching import matching_answers


def majorities(stated: Sequence[Stated | None], num_generations: int) -> list[list[int]]:
    """Find for each group the rows of `stated` that hold its most common answer; none if there is no answer.

    Of answers equally common the one that comes first wins.
    """
    return [max(clusters, key=len, default=[]) for clusters in agreeing(stated, num_generations)]


def agreeing(stated: Sequence[Stated | None], num_generations: int) -> Iterator[list[list[int]]]:
    """Yield for each group the rows of the same answer, as lists in the order in which answers first appear."""
    for start in range(0, len(stated), num_generations):
        answers = [None if each is None else each.text for each in stated[start : start + num_generations]]
        yield [[start + place for place in places] for places in matching_answers(answers)]
