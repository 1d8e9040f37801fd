"""Text from files and models, as it may be shown: a terminal obeys control characters."""

from __future__ import annotations

import re

# Control characters, of which a terminal takes some for commands, but for the line break and the tab; and those that
# turn the direction of writing, so that a line shows something else than it says.
_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """The text with a replacement character for every character that a terminal would obey."""
    return _COMMANDS.sub("\N{REPLACEMENT CHARACTER}", text)


def one_line(text: str) -> str:
    """The same without line breaks: an error is one line whatever it repeats."""
    return re.sub(r"[\n\t\u2028\u2029]", " ", printable(text))
