r"""The final answer that a completion states, and where it stands.

Answers are looked for in tiers, the surest first; the first tier that finds one decides:

    marker    the line after `####` (the form of GSM8K), unless it is a heading
    box       the last complete `\boxed{…}` (the form of MATH)
    tag       the last complete `<answer>…</answer>`; of marker, box and tag the one that comes last
    phrase    "the answer is …", "Answer: …"
    equation  what stands behind the last = of the last sentence
    bold      the last `**…**` of the last sentence
    number    the last number of the last sentence

The style says which tiers count: `strict` takes the first three, `lenient` all. Every function here takes one pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from rlif.answers.decoration import Span, undecorated
from rlif.answers.prose import ProseTier, stated_in_prose
from rlif.answers.tags import read_tags

AnswerStyle = Literal["strict", "lenient"]
Tier = Literal["marker", "box", "tag"] | ProseTier

_MARKER = re.compile(r"(?<!#)#{4}(?!#)")
_BRACE = re.compile(r"(?P<box>\\boxed\s*\{|\\fbox\s*\{)|\{|\}")
_UNBRACED_BOX = re.compile(r"\\boxed\s+([^\s{}$]+)")
# How a line begins that states a value: a sign, a digit, LaTeX, a bracket, a choice (B), or a variable and a sign.
_VALUE = re.compile(
    r"[-+\u2212\u00b1]?\s?[\d.$\u20ac\u00a3\u00a5\\({\[|\u221a\u03c0\u221e]|[A-Za-z](?:\s*=|[^\sA-Za-z]|\s*$)"
)
# Words behind a marker are a heading if as many characters of text follow.
_SHORTEST_SECTION = 20
# How a heading begins all the same: "2. Solve", "1) First", "3 Ways".
_NUMBERED = re.compile(r"\(?\d+[.):]+\s+[A-Za-z*]|\d+\s+[A-Z][a-z]")


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
        style: "strict" takes marker, box and tag alone; "lenient" looks into prose too.
        finished: whether the text ended by itself rather than being cut off. A text that was cut off states no answer
            in prose, whose last number may be half of one. None: unknown; then prose counts if it ends as a sentence
            does.
    """
    marked = _marked(text)
    # Of a box within a tag the box.
    found: list[tuple[Span, Tier]] = [(span, "tag") for span in [read_tags(text).answer] if span is not None]
    found += [(span, "box") for span in [_boxed(text)] if span is not None]
    span, tier = max(found, key=lambda each: each[0][0], default=(None, None))
    if span is not None and tier and (marked is None or span[0] > marked[0] or not _is_value(text, marked)):
        return Stated(text[slice(*span)], tier, *span)
    if marked is not None:
        return Stated(text[slice(*marked)], "marker", *marked)
    if style == "strict":
        return None
    stated = stated_in_prose(text, finished)
    return None if stated is None else Stated(text[slice(*stated[1])], stated[0], *stated[1])


def extract_answer(text: str, *, style: AnswerStyle = "strict", finished: bool | None = None) -> str | None:
    """Return the text of `stated_answer`, or None."""
    stated = stated_answer(text, style=style, finished=finished)
    return None if stated is None else stated.text


def _marked(text: str) -> Span | None:
    """Where the answer stands that `####` marks: the last one that reads as a value, or words that end the text."""
    found = words = None
    end = 0
    for start, end in _marked_lines(text):
        span = undecorated(text, start, end)
        if span is None:
            found = words = None  # a marker that marks nothing yet
        elif _is_value(text, span):
            found, words = span, None
        else:
            words = span
    return found if words is None or len(text[end:].strip()) > _SHORTEST_SECTION else words


def _marked_lines(text: str) -> Iterator[Span]:
    """Yield the rest of the line behind each `####`; if that is empty, the next line that is not, if it is a value."""
    markers = [match.span() for match in _MARKER.finditer(text)]
    for number, (start, end) in enumerate(markers):
        limit = markers[number + 1][0] if number + 1 < len(markers) else len(text)
        line_end = _line_end(text, end, limit)
        if not text[end:line_end].strip(" \t*_`"):
            previous = markers[number - 1][1] if number else None
            if previous is not None and "\n" not in text[previous:start]:
                continue  # it closes a heading: #### 42 ####
            first = _first_visible(text, line_end)
            line_end = _line_end(text, first, limit)
            span = undecorated(text, first, line_end)
            if first < len(text) and (span is None or not _is_value(text, span)):
                continue  # a heading without words
            end = first
        yield end, line_end


def _line_end(text: str, start: int, limit: int) -> int:
    end = text.find("\n", start, limit)
    return limit if end == -1 else end


def _first_visible(text: str, start: int) -> int:
    while start < len(text) and text[start].isspace():
        start += 1
    return start


def _is_value(text: str, span: Span) -> bool:
    return bool(_VALUE.match(text, *span)) and not _NUMBERED.match(text, *span)


def _boxed(text: str) -> Span | None:
    """Where the content stands of the complete box that begins last, by one pass over the braces."""
    last: Span | None = None
    opened: list[int | None] = []  # for each open brace where a box's content begins, None for other braces
    for brace in _BRACE.finditer(text) if "\\boxed" in text or "\\fbox" in text else ():
        if brace["box"] is not None:
            opened.append(brace.end())
        elif brace[0] == "{":
            opened.append(None)
        elif opened:
            start = opened.pop()
            if start is not None and (last is None or start > last[0]):
                last = undecorated(text, start, brace.start())
    for box in _UNBRACED_BOX.finditer(text):
        if last is None or box.start() > last[0]:
            last = undecorated(text, *box.span(1)) or last
    return last
