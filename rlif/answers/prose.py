"""The answer that a text states in prose: "The answer is 42.", "So they have **12** left.", "= 2,200 people"."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from typing import Literal

from rlif.answers.decoration import Span, undecorated

ProseTier = Literal["phrase", "equation", "bold", "number"]

# A number as prose has it: 2,200  .5  3/4  2 1/2  2½  1.5e3  3 × 10^8  5:30  3:4  25π, but no ordinal.
_VALUE = (
    r"(?:\d+(?:\.\d+)?\s?[x*\u00d7\u00b7]\s?10(?:\^\{?[-\u2212]?\d+\}?|[\u2070-\u2079\u207b\u00b9\u00b2\u00b3]+)"
    r"|\\[dt]?frac\s?\{\d+\}\s?\{\d+\}"
    r"|\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!\d)|\d+ \d+/\d+|\d+/\d+|\d+(?::\d+)+|\d*\s?[\u00bc-\u00be\u2150-\u215e]"
    r"|\d*\.?\d+(?:[eE][-+]?\d+)?\s?\u03c0?)(?<!\s)(?!\d|(?:st|nd|rd|th)\b)"
)
# A minus is a sign unless an operand stands before it.
_NUMBER = re.compile(rf"(?<![\d)\]}}]\s)(?<![\w)\]}}])[-+\u2212](?=[$\d.])\\?\$?{_VALUE}|(?<![\w.])(?<!\d,){_VALUE}")
_SCALE = re.compile(r"\s?\\?%|\s?percent\b|\s(?:hundred|thousand|million|billion|trillion)\b", re.IGNORECASE)
_PHRASE = re.compile(
    r"\b(?:answer|solution|(?:correct|right) (?:option|choice))s?(?:(?:\s+(?:to|of|for)\s[^.\n]{0,80}?)?"
    r"\s+(?:is|are|would be|will be|must be)\b(?!\s+not\b)|\**\s*[:=])(?:\s+(?:therefore|thus|then|that)\b)?[\s:*]*",
    re.IGNORECASE,
)
# What heads a derivation, rather than an answer.
_DERIVATION = re.compile(
    r"solutions?\W*[:=].*|.*\b(?:is|are)\s+(?:found|obtained|given|calculated|computed|derived|as follows|below)\b",
    re.IGNORECASE | re.DOTALL,
)
_OPTION = re.compile(r"(?:option|choice)\s+\(?([A-J])(?![A-Za-z])", re.IGNORECASE)
_RIGHT_OPTION = re.compile(
    r"\b(?:[Oo]ption|[Cc]hoice)\s+\W{0,3}([A-J])\W{0,3}\s+is\s+(?:the\s+)?(?:correct|right|answer)\b"
)
# $…$ as Pandoc has it: no space inside the signs, no digit behind them, so that two prices are none.
_MATHEMATICS = re.compile(
    r"(?<![\\$])\$\$?(?=[^\s$])((?:\\\$|[^$\n]){1,400})(?<=\S)(?<!\\)\$\$?(?!\d)"
    r"|\\\(([^\n]{1,400}?)\\\)|\\\[([^\n]{1,400}?)\\\]"
)
_DISPLAY = re.compile(r"\\\[(.{1,400}?)\\\]|\$\$(.{1,400}?)\$\$", re.DOTALL)
# What parts several solutions: 2 and 3; 1, 2, or 3.
_SEPARATOR = re.compile(r",\s+(?:(?:and|or)\s+)?|\s+(?:and|or)\s+")
_ASSIGNED = re.compile(r"[A-Za-z](?:_\d)?\s?=\s?")
_FENCE = re.compile(r"(?:\s|```[A-Za-z]*\n)*")
_CHOICE = re.compile(r"\(?([A-J])[).:](?=\s|$)")
_BOLD = re.compile(r"\*\*([^*\n]{1,200})\*\*|__([^_\n]{1,200})__")
_EQUALS = re.compile(r"=|\\approx|\\equiv|\u2248")
_WORDS = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
_SENTENCE_END = re.compile(r"(?:[.?]|!(?!\s*[=+*/-]))(?:[\"')\]*_]{0,3})(?=\s|$)|\n")
# What a number behind these words belongs to is no result where the sentence has another: "24 eggs in 4 boxes".
_CIRCUMSTANCE = re.compile(
    r"\b(?:in|for|per|from|every|(?:after|before|by)(?: \w{2,}ing)?(?: away| up| out)?|of)\s+"
    r"(?:the |all |these |each )?$",
    re.IGNORECASE,
)
# Behind these "of" belongs to the result: "a total of 45 dollars", "a distance of 20 miles in 5 hours". With another
# article it does not: "the cost of 6 pens".
_MEASURED = re.compile(
    r"\b(?:total|an?\s+(?:\w+\s+)?(?:age|amount|area|average|change|charge|cost|discount|distance|fare|height|length|number"
    r"|perimeter|price|profit|score|speed|sum|temperature|time|value|volume|weight|width))\s+of\s+$",
    re.IGNORECASE,
)
_OPERATOR_BEFORE = re.compile(r"(?:[+/^\u00d7\u00f7]|(?<!\*)\*(?!\*)|[\d)]\s*[-\u2212])\s*$")
_OPERATOR_BEHIND = re.compile(r"\s*(?:[+/^\u00d7\u00f7]|\*(?!\*)|[-\u2212]\s*\$?[\d(])")
_NEIGHBOURHOOD = 32
_STATEMENT = re.compile(r"=|\*\*|\\[(\[]|(?<!\\)\$")
# Signs that a sentence is over, where nobody says whether the text was cut off.
_ENDINGS = (".", "!", "?", "$", r"\]", r"\)", "**", "`", '"', "\u201d")
# Sentences are looked at this far back, in characters; longer ones are lists or loops.
_LONGEST_SENTENCE = 1000
_LONGEST_WORDS = 40
# Sentences that say nothing are passed over at the end, as many.
_REMARKS = 3


def stated_in_prose(text: str, finished: bool | None) -> tuple[ProseTier, Span] | None:
    """Find the answer that prose states, by the first of these: a phrase, an equation, bold type, the last number.

    The phrase may stand anywhere, and the last one counts. The others are looked for in the last sentence; up to three
    without a number are passed over ("I hope this helps!").

    Args:
        text: of any length.
        finished: False finds nothing; None finds nothing unless the last sentence is ended.
    """
    end = len(text.rstrip())
    if finished is False or (finished is None and not text.endswith(_ENDINGS, 0, end)):
        return None
    phrase = _by_phrase(text)
    if phrase is not None:
        return "phrase", phrase
    return _by_last_sentence(text, _last_sentence(text, end))


def numbers_in(text: str) -> Iterator[Span]:
    """Yield where the numbers of a text stand, those left out that are yet to be added up."""
    for number in _NUMBER.finditer(text):
        if not _is_operand(number):
            yield _with_scale(text, number.start(), number.end(), len(text))


def _by_phrase(text: str) -> Span | None:
    last = _last(_PHRASE.finditer(text))
    option = _last(_RIGHT_OPTION.finditer(text))
    if option is not None and (last is None or last.start() < option.start()):
        return option.span(1)
    if last is None:
        return None
    start, end = _sentence_from(text, last.end())
    if (
        text[start : start + 1].isalpha()
        and _DERIVATION.match(text, last.start(), end)
        and _NUMBER.search(text, end, end + _LONGEST_SENTENCE)
    ):
        return None
    found = undecorated(text, start, end)
    if found is None:
        return None
    start, end = found
    choice = _CHOICE.match(text, start, end) or _OPTION.match(text, start, end)
    if choice:
        return choice.span(1)
    if _are_several(text, start, end):
        return start, end
    mathematics = _MATHEMATICS.match(text, start, end)
    if mathematics and _is_mathematics(mathematics):
        return _right_side(text, *_inside(mathematics))
    number = _number_at(text, start, end)
    if number is not None and number[1] < end and _OPERATOR_BEHIND.match(text, number[1], end):
        number = None  # 5 * 3, which is 15
    if number == (start, end) or (number is not None and _WORDS.search(text, start, end)):
        return _last_value_of_equation(text, start, end) or number
    if not _WORDS.search(text, start, end):
        return _right_side(text, start, end)
    equals = _last_value_of_equation(text, start, end)
    if equals is not None:
        return equals
    if end - start <= _LONGEST_WORDS and not _NUMBER.search(text, start, end):
        return start, end
    return _last_number(text, start, end)


def _are_several(text: str, start: int, end: int) -> bool:
    """Whether there are several solutions and nothing else, each a number or mathematics."""
    separators = [match.span() for match in _SEPARATOR.finditer(text, start, end)]
    starts, ends = [start, *(stop for _, stop in separators)], [*(begin for begin, _ in separators), end]
    return len(starts) > 1 and all(_is_solution(text, *each) for each in zip(starts, ends, strict=True))


def _is_solution(text: str, start: int, end: int) -> bool:
    mathematics = _MATHEMATICS.match(text, start, end)
    if mathematics:
        return mathematics.end() == end and _is_mathematics(mathematics)
    assigned = _ASSIGNED.match(text, start, end)
    number = _number_at(text, assigned.end() if assigned else start, end)
    return number is not None and number[1] == end


def _by_last_sentence(text: str, sentence: Span) -> tuple[ProseTier, Span] | None:
    start, end = sentence
    for display in _DISPLAY.finditer(text, max(0, start - _LONGEST_SENTENCE), end + _LONGEST_SENTENCE):
        if display.start() <= start and end <= display.end():
            inner = _inside(display)
            closing = text.find(r"\end{", *inner)  # of aligned equations
            found = _right_side(text, inner[0], inner[1] if closing == -1 else closing)
            tier: ProseTier = "equation" if _EQUALS.search(text, *_inside(display)) else "number"
            return None if found is None else (tier, found)
    equation = _last_value_of_equation(text, start, end)
    if equation is not None:
        return "equation", equation
    bold = None
    for match in _BOLD.finditer(text, start, end):
        inside = undecorated(text, *_inside(match))
        value = None if inside is None else _whole_or_last_number(text, *inside)
        bold = value or bold
    if bold is not None:
        return "bold", bold
    number = _last_number(text, start, end)
    return None if number is None else ("number", number)


def _last_value_of_equation(text: str, start: int, end: int) -> Span | None:
    """What stands behind the last equals sign, if no other result follows it."""
    sign = _last(_EQUALS.finditer(text, start, end))
    if sign is None:
        return None
    for mathematics in _MATHEMATICS.finditer(text, start, end):
        inner = _inside(mathematics)
        if inner[0] <= sign.start() < inner[1] and _is_mathematics(mathematics):
            if _has_result(text, mathematics.end(), end):
                return None
            return undecorated(text, sign.end(), inner[1])
    found = undecorated(text, sign.end(), end)
    if found is None:
        return None
    whole = _MATHEMATICS.match(text, *found)
    if whole and _is_mathematics(whole):
        return None if _has_result(text, whole.end(), end) else undecorated(text, *_inside(whole))
    number = _number_at(text, *found)
    if number is not None:
        return None if _has_result(text, number[1], found[1]) else number
    # LaTeX or an expression without words: all of it.
    return None if _WORDS.search(text, *found) else found


def _right_side(text: str, start: int, end: int) -> Span | None:
    for sign in _EQUALS.finditer(text, start, end):
        start = sign.end()
    return undecorated(text, start, end)


def _whole_or_last_number(text: str, start: int, end: int) -> Span | None:
    mathematics = _MATHEMATICS.search(text, start, end)
    if mathematics and _is_mathematics(mathematics):
        return _right_side(text, *_inside(mathematics))
    return _last_value_of_equation(text, start, end) or _last_number(text, start, end)


def _last_number(text: str, start: int, end: int) -> Span | None:
    """The last number of a part of a text: all of the mathematics that it stands in.

    Numbers that are yet to be added up are none, and those of a circumstance only where there is no other.
    """
    numbers = [number for number in _NUMBER.finditer(text, start, end) if not _is_operand(number)]
    results = [number for number in numbers if not _is_circumstance(number)]
    last = next(reversed(results or numbers), None)
    for mathematics in _MATHEMATICS.finditer(text, start, end):
        if _is_mathematics(mathematics) and (last is None or mathematics.end() > last.start()):
            return _right_side(text, *_inside(mathematics))
    return None if last is None else _with_scale(text, last.start(), last.end(), end)


def _is_operand(number: re.Match[str]) -> bool:
    before = number.string[max(0, number.start() - _NEIGHBOURHOOD) : number.start()].rstrip("$")
    return bool(_OPERATOR_BEFORE.search(before) or _OPERATOR_BEHIND.match(number.string, number.end()))


def _is_circumstance(number: re.Match[str]) -> bool:
    before = number.string[max(0, number.start() - _NEIGHBOURHOOD) : number.start()]
    return bool(_CIRCUMSTANCE.search(before)) and not _MEASURED.search(before)


def _has_result(text: str, start: int, end: int) -> bool:
    """Whether a part of a text has a number that is more than a circumstance."""
    return any(not _is_circumstance(number) for number in _NUMBER.finditer(text, start, end))


def _number_at(text: str, start: int, end: int) -> Span | None:
    """The number that a part of a text begins with, a sign of currency before it left out."""
    if text.startswith("$", start) or text.startswith(r"\$", start):
        start = text.index("$", start) + 1
    match = _NUMBER.match(text, start, end)
    return None if match is None else _with_scale(text, match.start(), match.end(), end)


def _with_scale(text: str, start: int, end: int, limit: int) -> Span:
    scale = _SCALE.match(text, end, limit)
    return start, scale.end() if scale else end


def _last(matches: Iterator[re.Match[str]]) -> re.Match[str] | None:
    return next(iter(deque(matches, maxlen=1)), None)


def _inside(match: re.Match[str]) -> Span:
    """Where the one group stands that took part in a match."""
    return match.span(match.lastindex or 0)


def _is_mathematics(match: re.Match[str]) -> bool:
    """Whether what stands between two dollars is mathematics, rather than the words between two prices."""
    return match[0][0] != "$" or "\\" in match[0] or not _WORDS.search(match.string, *_inside(match))


def _last_sentence(text: str, end: int) -> Span:
    """Where the last sentence stands that has a number or mathematics, or the last one if none of the last few has."""
    for remarks in range(_REMARKS + 1):
        while end > 0 and not text[end - 1].isalnum():  # the sentence's own end, and what closes mathematics
            end -= 1
        first = start = max(0, end - _LONGEST_SENTENCE)
        for ending in _SENTENCE_END.finditer(text, first, end):
            start = ending.end()
        stop = _SENTENCE_END.search(text, end)
        sentence = start, min(end + _LONGEST_SENTENCE, len(text.rstrip()) if stop is None else stop.start())
        if remarks == 0:
            last = sentence
        if _NUMBER.search(text, start, end) or _STATEMENT.search(text, start, end):
            return sentence
        if start == 0:
            break
        end = start
    return last


def _sentence_from(text: str, start: int) -> Span:
    """From a place to the end of its sentence, which may begin on the next line."""
    fence = _FENCE.match(text, start)
    start = fence.end() if fence else start
    limit = min(len(text), start + _LONGEST_SENTENCE)
    ending = _SENTENCE_END.search(text, start, limit)
    return start, limit if ending is None else ending.start()
