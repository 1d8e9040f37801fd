"""The Markdown pages of the repository and the snippets in them, as the tests of the pages see both."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

_MARKER = re.compile(r"<!-- (given|run by|not run):(.*?)-->")


class Snippet(NamedTuple):
    """A fenced block of a page."""

    page: str
    """Path from the root."""
    line: int
    """Of the page, from 1, at which it begins."""
    language: str
    """What stands after the fence; empty where nothing does."""
    text: str
    kind: str
    """Of the marker on the line above: "given", "run by", "not run"; empty where there is none."""
    value: str
    """What the marker says."""

    @property
    def place(self) -> str:
        """Where it is, for the name of a test."""
        return f"{self.page}:{self.line}"


def snippets_of(page: Path) -> list[Snippet]:
    """All fenced blocks of a page, in order."""
    found, lines = [], page.read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        if lines[number].startswith("```"):
            end = lines.index("```", number + 1)
            marker = _MARKER.fullmatch(lines[number - 1])
            kind, value = (marker[1], marker[2].strip()) if marker else ("", "")
            text = "".join(f"{line}\n" for line in lines[number + 1 : end])
            found.append(
                Snippet(page.relative_to(ROOT).as_posix(), number + 1, lines[number][3:].strip(), text, kind, value)
            )
            number = end
        number += 1
    return found


SNIPPETS = [snippet for page in PAGES for snippet in snippets_of(page)]


def snippet(page: str, part: str) -> str:
    """The one snippet of a page that has these words in it."""
    (found,) = [each.text for each in SNIPPETS if each.page == page and part in each.text]
    return found


def trainer_rows() -> list[list[str]]:
    """The cells of the table of trainers, its headings first."""
    lines = [line for line in (ROOT / "docs/trainers.md").read_text(encoding="utf-8").splitlines() if line[:1] == "|"]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in (lines[0], *lines[2:])]


def named_tests() -> list[str]:
    """The tests that its cells name."""
    return sorted({cell.strip("`") for row in trainer_rows()[1:] for cell in row[3:] if cell != "-"})
