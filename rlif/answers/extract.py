r"""The final answer that a completion states, and where it stands.

Answers are looked for in tiers, the surest first; the first tier that finds one decides:

    marker    the line after `####` (the form of GSM8K), unless it is a heading
    box       the last complete `\boxed{…}` (the form of MATH); of marker and box the one that comes last
    phrase    "the answer is …", "Answer: …"
    equation  what stands behind the last = of the last sentence
    bold      the last `**…**` of the last sentence
    number    the last number of the last sentence

The style says which tiers count: `strict` takes the first two, `lenient` all. Every function here takes one pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from rlif.answers.prose import Span, stated_in_prose, undecorated

AnswerStyle = Literal["strict", "lenient"]
Tier = Literal["marker", "box", "phrase", "equation", "bold", "number"]


@dataclass(frozen=True)
class Stated:
    """An answer that a text states, and how it was found."""

    text: str
    """The answer as it stands in the text: `text[start:end]`, without marker, box, Markdown or space around it."""
    tier: Tier
    """The rule that found it."""
    start: int
    """Place of its first character in the text."""
    end: int
    """Place behind its last character."""


def stated_answer(text: str, *, style: AnswerStyle = "strict", finished: bool | None = None) -> Stated | None:
    r"""Find the final answer that a text states, or None if it states none.

    Args:
        text: a completion, or a solution from a data set.
        style: "strict" takes marker and box alone; "lenient" looks into prose too.
        finished: whether the text ended by itself rather than being cut off. A text that was cut off states no answer
            in prose, whose last number may be half of one. None: unknown; then prose counts if it ends as a sentence
            does.
    """
    raise NotImplementedError


def extract_answer(text: str, *, style: AnswerStyle = "strict", finished: bool | None = None) -> str | None:
    """Return the text of `stated_answer`, or None."""
    stated = stated_answer(text, style=style, finished=finished)
    return None if stated is None else stated.text


def gold_answer(value: object) -> str | None:
    """Return a data set's gold answer as text: of a whole solution the final answer, else itself; None for none.

    Numbers are written out in full and exactly as they were given: 1e-05 is `0.00001`, and a number of numpy is the
    shortest decimal that its own width tells from its neighbours. None, NaN, NaT and empty text are no answer.

    Raises:
        TypeError: it is neither text nor a number.
    """
    raise NotImplementedError
