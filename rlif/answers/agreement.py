"""This module finds which completions of a group state the same answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rlif.answers.extract import extract_answer
from rlif.answers.matching import matching_answers


def majorities(texts: Sequence[str], num_generations: int) -> list[list[int]]:
    """For each group the completions (rows of `texts`) that state its most common answer; none if none states one.

    Of answers equally common the one that comes first wins.
    """
    return [max(clusters, key=len, default=[]) for clusters in agreeing(texts, num_generations)]


def agreeing(completions: Sequence[str], num_generations: int) -> Iterator[list[list[int]]]:
    """Yield for each group the rows that state the same answer, as lists in the order in which answers first appear."""
    for start in range(0, len(completions), num_generations):
        answers = [extract_answer(text) for text in completions[start : start + num_generations]]
        yield [[start + place for place in places] for places in matching_answers(answers)]
