"""The final answer that a completion states, and where it stands."""

from __future__ import annotations

_MARKER = "####"


_BOXED = r"\boxed{"


def extract_answer(text: str) -> str | None:
    r"""The final answer that a solution states, or None if it states none.

    The answer is the rest of the line after the last `####` (the form of GSM8K). Without that marker it is the
    content of the last complete `\boxed{…}`, whose braces may nest (the form of MATH).
    """
    span = answer_span(text)
    return None if span is None else text[slice(*span)]


def answer_span(text: str) -> tuple[int, int] | None:
    """Where `extract_answer`'s answer stands: its first character and the one after its last."""
    marker = text.rfind(_MARKER)
    if marker != -1:
        start = marker + len(_MARKER)
        return _stripped(text, start, start + len(text[start:].split("\n", 1)[0]))
    start = text.rfind(_BOXED)
    while start != -1:
        end = _closing_brace(text, start + len(_BOXED))
        if end is not None:
            return _stripped(text, start + len(_BOXED), end)
        start = text.rfind(_BOXED, 0, start)
    return None


def _stripped(text: str, start: int, end: int) -> tuple[int, int] | None:
    """The part of text[start:end] without surrounding space, or None if nothing else is in it."""
    part = text[start:end]
    start += len(part) - len(part.lstrip())
    end -= len(part) - len(part.rstrip())
    return (start, end) if start < end else None


def _closing_brace(text: str, start: int) -> int | None:
    """Where the brace stands that closes the one opened just before `start`, or None if none does."""
    depth = 1
    for position in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return position
    return None
