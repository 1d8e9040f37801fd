"""Completions as the page shows them, with what became of their answers in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlif.answers.gold import in_words
from rlif.answers.matching import is_right
from rlif.reporting.run_files import Sample


@dataclass(frozen=True)
class Shown:
    """One completion on the page."""

    sample: Sample
    verdict: str
    """What became of its answer, in words."""
    is_right: bool | None
    """None where nothing tells."""
    heading: str = ""
    """Of an evaluation's: its score, and how it compares."""


def shown(sample: Sample, heading: str = "") -> Shown:
    """Say what became of the answer of a completion."""
    return Shown(sample, *_verdict(sample), heading)


def without_colours(completions: Sequence[Shown], what: str) -> str | None:
    """Say why completions have no colours, where none has any.

    Args:
        completions: that a page shows.
        what: kept them, for the words: "run".
    """
    if not completions:
        return f"The {what} has kept no completions yet."
    if any(each.sample.tokens is not None for each in completions):
        return None
    return "These completions have no colours: no statistics of their tokens were kept with them."


def _verdict(sample: Sample) -> tuple[str, bool | None]:
    ending = "" if sample.finished else ", cut off"
    if sample.stated is None:
        return f"states no answer{ending}", False if sample.answer is not None else None
    if sample.answer is None:
        return f"states {sample.stated}{ending}", None
    if is_right(sample.stated, sample.answer):
        return f"right: {sample.stated}{ending}", True
    return f"states {sample.stated}, right is {in_words(sample.answer)}{ending}", False
