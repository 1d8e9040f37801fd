"""The final answer of a completion, and whether two answers are the same."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal

from rlif.answers.extract import _BOXED, _closing_brace
from rlif.answers.math_verification import equal_mathematics

_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)?(?:\.[0-9]*)?")
_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\{([^{}]*)\}")
# LaTeX is mathematics; so is an expression of numbers and single letters, such as 3/4, x+1 or (1, 2).
_LATEX = re.compile(r"\\[A-Za-z{}%$]|[$^]")
_EXPRESSION = re.compile(r"(?:[0-9+\-*/=<>()\[\]{}.,|%! ]|(?<![A-Za-z])[A-Za-z](?![A-Za-z]))+")
# These characters alone make codes and dates (2024-01-31), and sums that nobody has added up.
_DIGITS_AND_SIGNS = re.compile(r"[0-9+\-*., ]*")
# An operator between two operands.
_OPERATION = re.compile(r"[0-9A-Za-z)}\]]\s*(?:[-+*]|\\times|\\cdot)\s*[-\\0-9A-Za-z({\[]")
# Comparing longer ones takes the computer algebra ages, and no gold answer is that long.
_LONGEST_EXPRESSION = 200


def answers_match(answer: str, gold: str) -> bool:
    r"""Tell whether an answer equals another: as numbers, as mathematics, or as text without surrounding space.

    Numbers may carry a sign, thousands separators and trailing zeros: `+1,000.0` equals `1000`. Two mathematical
    expressions that are not both such numbers are compared by math-verify: `\frac{1}{2}` equals `0.5`, `x+1` equals
    `1+x`. Everything else is text, where only the same characters match: `Paris`, `B`, `7 apples`, `2024-01-31`.

    A sum, difference or product that was not worked out is no answer to a gold one that has none in it: else a policy
    learns to answer "What is 12+34?" with `12+34`.
    """
    answer, gold = _plain(answer), _plain(gold)
    if answer == gold:
        return True
    number, gold_number = _as_number(answer), _as_number(gold)
    if number is not None and gold_number is not None:
        return number == gold_number
    if not (is_mathematical(answer) and is_mathematical(gold)):
        return False
    if _OPERATION.search(answer) and not _OPERATION.search(gold):
        return False
    return equal_mathematics(answer, gold)


def matching_answers(answers: Sequence[str | None]) -> list[list[int]]:
    """Which of several answers are the same, by `answers_match`: the places of each, those of the first answer first.

    None, no answer, matches nothing and is left out. An answer joins the first one that it matches. Neither of two
    answers is the gold one: a sum that was not worked out is another answer than its value, whichever comes first.
    """
    clusters: list[tuple[str, list[int]]] = []
    for place, answer in enumerate(answers):
        if answer is None:
            continue
        places = next((places for stated, places in clusters if _same_answer(answer, stated)), None)
        if places is None:
            clusters.append((answer, [place]))
        else:
            places.append(place)
    return [places for _, places in clusters]


def is_mathematical(text: str) -> bool:
    """Whether an answer is read as mathematics rather than as text: a number, LaTeX, or an expression.

    An expression is made of numbers, operators, brackets and single letters, and is neither one letter alone (a
    choice among several) nor digits with signs alone (a date, a code, a sum to be worked out).
    """
    if len(text) > _LONGEST_EXPRESSION or not _is_balanced(text) or _BOXED in text:
        return False
    if _as_number(text) is not None or _LATEX.search(text):
        return True
    return len(text) > 1 and _EXPRESSION.fullmatch(text) is not None and _DIGITS_AND_SIGNS.fullmatch(text) is None


def _same_answer(one: str, other: str) -> bool:
    return answers_match(one, other) and bool(_OPERATION.search(one)) == bool(_OPERATION.search(other))


def _plain(text: str) -> str:
    r"""Without surrounding space, and without the LaTeX that only says that it is text: `\text{B}` is `B`."""
    text = text.strip()
    wrapped = _TEXT.fullmatch(text)
    return wrapped[1].strip() if wrapped else text


def _is_balanced(text: str) -> bool:
    # Text that closes a brace it has not opened would end the \boxed{…} that math-verify is given.
    return _closing_brace(text + "}", 0) == len(text)


def _as_number(text: str) -> Decimal | None:
    if any(character in "0123456789" for character in text) and _NUMBER.fullmatch(text):
        return Decimal(text.replace(",", ""))
    return None
