"""Whether two answers are the same, and whether one is right."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from rlif.answers.keys import answer_key, reading

GoldAnswer = str | tuple[str, ...]
"""What is right by a data set, or two or more answers any of which is right. In a file the latter are a list."""


def answers_match(one: str, other: str) -> bool:
    r"""Tell whether two answers are the same: as numbers, as mathematics, or as text without surrounding space.

    They are if their keys are equal (`rlif.answers.keys`), so this is an equivalence: `+1,000.0` is `1000`,
    `\frac{1}{2}` is `0.5`, `x+1` is `1+x`. Everything else is text, where the same words match: `Paris`, `B`,
    `2024-01-31`. A sum, difference or product that was not worked out is never its value: else a policy learns to
    answer "What is 12+34?" with `12+34`.
    """
    return answer_key(one) == answer_key(other)


def is_right(answer: str, gold: str | Sequence[str]) -> bool:
    r"""Tell whether an answer is right by a gold one: the same, or the same but for a unit that only one of them names.

    Of several gold answers (`rlif.answers.gold`) any will do.

    `18\text{ miles}` and `50\%` are right where the gold answer is `18` or `50`, since the question asks for miles or
    for per cent, and `7\text{ cm}` is not right where it is `7\text{ m}`. So this is no equivalence, and groups of
    answers go by `answers_match`.
    """
    if not isinstance(gold, str):
        return any(is_right(answer, each) for each in gold)
    one, other = reading(answer), reading(gold)
    if one.key == other.key:
        return True
    if one.form is not None or other.form is not None or one.bare is None or one.bare != other.bare:
        return False
    units = set(one.unit.split()), set(other.unit.split())
    return units[0] < units[1] or units[1] < units[0]


def matching_answers(answers: Sequence[str | None]) -> list[list[int]]:
    """Which of several answers are the same, by `answer_key`: the places of each, those of the first answer first.

    None, no answer, matches nothing and is left out.
    """
    clusters: dict[Hashable, list[int]] = {}
    for place, answer in enumerate(answers):
        if answer is not None:
            clusters.setdefault(answer_key(answer), []).append(place)
    return list(clusters.values())
