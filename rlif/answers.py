"""The final answer of a completion, and whether two answers are the same."""

from __future__ import annotations

import re
from decimal import Decimal

_MARKER = "####"
_BOXED = r"\boxed{"
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)?(?:\.[0-9]*)?")


def extract_answer(text: str) -> str | None:
    r"""The final answer that a solution states, or None if it states none.

    The answer is the rest of the line after the last `####` (the form of GSM8K). Without that marker it is the
    content of the last complete `\boxed{…}`, whose braces may nest (the form of MATH).
    """
    _, marker, after = text.rpartition(_MARKER)
    if marker:
        return after.split("\n", 1)[0].strip() or None
    start = text.rfind(_BOXED)
    while start != -1:
        content = _balanced(text, start + len(_BOXED))
        if content is not None:
            return content.strip() or None
        start = text.rfind(_BOXED, 0, start)
    return None


def answers_match(answer: str, gold: str) -> bool:
    """Whether two answers are equal: as numbers if both are numbers, else as text without surrounding space.

    Numbers may carry a sign, thousands separators and trailing zeros: `+1,000.0` equals `1000`.
    """
    answer, gold = answer.strip(), gold.strip()
    number = _as_number(answer)
    return answer == gold or (number is not None and number == _as_number(gold))


def _balanced(text: str, start: int) -> str | None:
    """The text from `start` to the brace that closes the one opened just before it, or None if none does."""
    depth = 1
    for position in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[start:position]
    return None


def _as_number(text: str) -> Decimal | None:
    if any(character in "0123456789" for character in text) and _NUMBER.fullmatch(text):
        return Decimal(text.replace(",", ""))
    return None
