"""What stands around an answer and is no part of it: Markdown, delimiters of mathematics, labels, full stops."""

from __future__ import annotations

import re

# Where a part of a text begins, and where it ends: its first character and the one behind its last.
Span = tuple[int, int]

_WRAPPERS = (
    ("**", "**"),
    ("__", "__"),
    ("*", "*"),
    ("`", "`"),
    ('"', '"'),
    ("\u201c", "\u201d"),
    ("$$", "$$"),
    ("$", "$"),
    (r"\(", r"\)"),
    (r"\[", r"\]"),
)
_LABEL = re.compile(
    r"[*_`]{0,3}(?:(?:so|thus|hence|therefore),? )?(?:the |my |our )?(?:final |correct |right )?(?:answer|solution)"
    r"(?: is|\s*[:=])(?:\s*:)?[*_`]{0,3}(?=\s|[^A-Za-z\s])",
    re.IGNORECASE,
)
_CLOSED_HEADING = re.compile(r"\s#+$")
# Layers of decoration that are taken off: nobody writes more, and each takes a pass.
_LAYERS = 8


def undecorated(text: str, start: int, end: int) -> Span | None:
    """Find the part of text[start:end] that is the answer alone; None if nothing else is in it.

    Surrounding space, `**…**`, `` `…` ``, `$…$`, `\\(…\\)`, a label such as "Answer:", the # that close a heading, and
    a full stop or a comma at the end are left out.
    """
    for _ in range(_LAYERS):
        before = start, end
        start, end = _stripped(text, start, end)
        label = _LABEL.match(text, start, end)
        if label:
            start, end = _stripped(text, label.end(), end)
        start, end = _unwrapped(text, start, end)
        if text.startswith("=", start, end):  # = 42
            start += 1
        closing = _CLOSED_HEADING.search(text, max(start, end - 80), end)
        if closing:
            end = closing.start()
        end = _without_stop(text, start, end)
        if (start, end) == before:
            break
    start, end = _stripped(text, start, end)
    return (start, end) if start < end else None


def _stripped(text: str, start: int, end: int) -> Span:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def _unwrapped(text: str, start: int, end: int) -> Span:
    for opening, closing in _WRAPPERS:
        begins, ends = text.startswith(opening, start, end), text.endswith(closing, start, end)
        inner = start + len(opening), end - len(closing)
        if begins and ends and inner[0] <= inner[1] and text.find(closing, *inner) == -1:
            if opening == "$" and inner[1] > inner[0] and text[inner[1] - 1] == "\\":
                continue  # the last one is the sign of dollars, \$
            return inner
        # A layer that began before the marker, as in **#### 42**, ends here without having begun.
        if opening in ("**", "__", "`") and ends and not begins and text.find(closing, start, inner[1]) == -1:
            return start, inner[1]
    return start, end


def _without_stop(text: str, start: int, end: int) -> int:
    if end - start < 2 or text[end - 1] not in ".,;:" or text[end - 2] in ".\\":
        return end
    return end if text.endswith(r"\right.", start, end) else end - 1
