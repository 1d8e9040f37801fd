"""Whether two answers are the same."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from rlif.answers.keys import answer_key


def answers_match(one: str, other: str) -> bool:
    """Tell whether two answers are the same: by their `answer_key`, so that this is an equivalence."""
    return answer_key(one) == answer_key(other)


def is_right(answer: str, gold: str) -> bool:
    r"""Tell whether an answer is right by a gold one: the same, or the same but for a unit that only one of them names.

    `18\text{ miles}` is right where the gold answer is `18`, since the question asked for miles; `7\text{ cm}` and
    `7\text{ m}` are different. This is no equivalence, so groups of answers go by `answers_match`.
    """
    raise NotImplementedError


def matching_answers(answers: Sequence[str | None]) -> list[list[int]]:
    """Which of several answers are the same, by `answer_key`: the places of each, those of the first answer first.

    None, no answer, matches nothing and is left out.
    """
    clusters: dict[Hashable, list[int]] = {}
    for place, answer in enumerate(answers):
        if answer is not None:
            clusters.setdefault(answer_key(answer), []).append(place)
    return list(clusters.values())
