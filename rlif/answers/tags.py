"""Answers and verbalised confidence between tags, as models write them that were trained to (RLCR, arXiv 2507.16806).

    … </think> <answer>42</answer> <analysis>I may have …</analysis> <confidence>0.8</confidence>

`read_tags` takes one pass.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import pairwise

from rlif.answers.decoration import Span, undecorated

_TAG = re.compile(r"<(/?)(think|answer|analysis|confidence)>")
# What a completion of the right form ends with; only white space stands between these parts and after them.
FORM = "… </think><answer>…</answer><analysis>…</analysis><confidence>0.8</confidence>"
_FORM = ("/think", "answer", "/answer", "analysis", "/analysis", "confidence", "/confidence")
_GAPS = ((0, 1), (2, 3), (4, 5))
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?|-?\.\d+")
_LONGEST_NUMBER = 40


@dataclass(frozen=True)
class Tagged:
    """What a text says between tags."""

    answer: Span | None
    """Where the content stands of the last complete answer tag, without decoration."""
    confidence: str | None
    """Content of the last complete confidence tag."""
    well_formed: bool
    """Whether the text ends with a thought's end, then answer, analysis and confidence in this order, with nothing but
    white space between them."""


def read_tags(text: str) -> Tagged:
    """Find the last answer and confidence tags of a text, and whether they stand where they should."""
    if "<answer>" not in text and "<confidence>" not in text:
        return Tagged(None, None, False)
    tags = [(match[1] + match[2], *match.span()) for match in _TAG.finditer(text)]
    spans: dict[str, Span] = {}
    for (name, _, start), (closing, end, _) in pairwise(tags):
        if closing == f"/{name}":
            spans[name] = start, end
    answer = undecorated(text, *spans["answer"]) if "answer" in spans else None
    confidence = text[slice(*spans["confidence"])].strip() if "confidence" in spans else None
    return Tagged(answer, confidence, _is_well_formed(text, tags[-len(_FORM) :]))


def _is_well_formed(text: str, last: list[tuple[str, int, int]]) -> bool:
    return (
        tuple(name for name, _, _ in last) == _FORM
        and all(not text[last[left][2] : last[right][1]].strip() for left, right in _GAPS)
        and not text[last[-1][2] :].strip()
    )


def strict_confidence(content: str | None) -> float | None:
    """Return a confidence that is written as a number from 0 to 1, as training wants it; None for anything else."""
    try:
        value = float(content) if content is not None and len(content) <= _LONGEST_NUMBER else math.nan
    except ValueError:
        return None
    return value if 0 <= value <= 1 else None


def has_form(text: str) -> bool:
    """Whether a text ends as `FORM` does, with a number from 0 to 1 as its confidence: what training rewards."""
    tags = read_tags(text)
    return tags.well_formed and strict_confidence(tags.confidence) is not None


def read_confidence(content: str | None) -> float | None:
    """Read a confidence as generously as an evaluation does: 0.9, 90, 90%, "about 90%".

    The first number counts. From 0 to 1 it is a probability, so that 1 is certainty, and above that to 100 a
    percentage; with a percent sign behind it, it is one in any case. None for anything else.
    """
    found = _NUMBER.search(content or "")
    if found is None or len(found[0]) > _LONGEST_NUMBER:
        return None
    assert content is not None
    value = float(found[0])
    if value > 1 or content[found.end() : found.end() + 2].lstrip().startswith("%"):
        value /= 100
    return value if 0 <= value <= 1 else None
