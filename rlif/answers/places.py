"""Where a text gives an answer that is known from elsewhere: a whole number or whole words, found by value.

Asked for its answer, a model says "2200" after "He has $2,200 now." What it says is looked for in the text as a number
of the same value or as the same words, all of it: the 12 of 120 is not 12, and "capital of France is" is nothing that
"… is Paris" and "… is Lyon" have in common. No place is better than a part of one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from rlif.answers.decoration import Span
from rlif.answers.extract import Stated, stated_answer
from rlif.answers.keys import reading
from rlif.answers.matching import is_right
from rlif.answers.prose import numbers_in
from rlif.answers.units import BARE_UNITS

# Letters with their marks, and scripts that write no space between words: there each character counts as a word.
_UNSPACED = r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]"
_LETTERS = rf"(?:(?!{_UNSPACED})(?:[^\W\d_]|[\u0300-\u036f\u0591-\u05c7\u0610-\u065f\u0900-\u0dff]))+"
_WORD = re.compile(rf"\d+(?:[.,]\d+)*|{_UNSPACED}|{_LETTERS}(?:['\u2019-]{_LETTERS})*")
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|\n")
_COPULA = re.compile(r"\b(?:is|are|was|were|be|equals)\s+", re.IGNORECASE)
_ARTICLES = frozenset({"the", "a", "an"})
# A number is a part of something else before these (5x, 5k, 2\pi, 2\sqrt{3}, 10^3, 5!, 3:4, 1,2) …
_GOES_ON = re.compile(
    r"[A-Za-z](?![A-Za-z])|\s?\\(?!\\|%|,|;|\)|\]|text|mathrm)|\s?[\u221a\u03c0^]|[_!]|\s?:\s?\d|[,.'\u2019]\d"
)
# … behind these (x_1, 2^5, \sqrt 5, \frac{1}{2}, 3:4), …
_WENT_BEFORE = re.compile(r"(?:\\[A-Za-z]+\s*|\d\s?:\s?|[_^\u221a]|(?<!boxed)(?<!fbox)\{)$")
# … in points and lists within brackets, and where it counts sentences and steps.
_POINT = re.compile(r"[(\[{]\s*[-\u2212]?[\d.]+(?:\s*,\s*[-\u2212]?[\d.]+){1,50}\s*\\?[)\]}]")
_ENUMERATION = re.compile(
    r"^[ \t]*(?:#+ )?\**(?:(?:step|question|problem|part) )?\(?(\d+)\**[.):]", re.IGNORECASE | re.MULTILINE
)
_MULTIPLIER = re.compile(r"\s(?:hundred|thousand|million|billion|trillion)\b", re.IGNORECASE)
# Several numbers that are one answer: 2 and 3, x = 2 or x = 3.
_LIST_GOES_ON = re.compile(r"\s*(?:,|and\b|or\b)\s*(?:[A-Za-z]\s*=\s*)?[-\u2212$]?\d")
_LIST_BEFORE = re.compile(r"\d\s*(?:,|and|or)\s+(?:[A-Za-z]\s*=\s*)?[-\u2212$]?$")
# What makes an expression a part of a longer one.
_JOINED = re.compile(r"(?:\w|[+\-\u2212*/^\u00d7.]\s?)$")
_JOINS = re.compile(r"\w|\s?[+\-\u2212*/^\u00d7]|\.\d")
_UNIT = re.compile(r"\s?(?:[ap]\.m\.|[A-Za-z]+)")
_NEIGHBOURHOOD = 24
# Characters of what was said when asked; more is a loop.
_LONGEST_ASKED = 400


def answer_place(text: str, asked: str, *, question: str = "", cut_off: bool = False) -> Span | None:
    """Find where a text gives the answer that its writer named when asked; None if it does not give all of it.

    What the text itself states counts first, else the last place with the same value. An answer that the question
    already has in its words counts only where the text states it or ends with it: that a text repeats the question says
    nothing about its answer. So does a single letter, which may be an article.

    Args:
        text: a completion.
        asked: what was said when asked for the answer, perhaps in a sentence, perhaps with more behind it.
        question: what the text answers.
        cut_off: whether `asked` was cut off, so that a number at its end may be half of one.
    """
    for answer in _named(asked, question, cut_off):
        place = _place(text, answer, question)
        if place is not None:
            return place
    return None


def _named(asked: str, question: str, cut_off: bool) -> Iterator[str]:
    """Yield what may be meant by an answer in a sentence, the likeliest first."""
    lines = asked.strip().splitlines()
    if not lines:
        return
    line = f"Answer: {lines[0][:_LONGEST_ASKED]}"
    cut_off = cut_off and len(lines) == 1 and not _SENTENCE_END.search(line)
    if cut_off and line[-1].isalnum():
        line = line.rpartition(" ")[0]  # the last word or number may be a part of one
    stated = stated_answer(line, style="lenient", finished=True)
    sentence = _SENTENCE_END.split(line.removeprefix("Answer:"), maxsplit=1)[0]
    if stated is not None and any(character.isdigit() for character in stated.text):
        several = any(_LIST_GOES_ON.match(stated.text, end) for _, end in numbers_in(stated.text))
        if several or _LIST_GOES_ON.match(line, stated.end) or _LIST_BEFORE.search(line, 0, stated.start):
            yield sentence.strip()  # one number of several is a part of the answer
            return
        whole = [place for place in _number_places(line) if place[0] == stated.start]
        end = whole[0][1] if whole else stated.end
        yield line[stated.start : end] + (_unit_behind(line, end) if whole else "")
        return
    if cut_off:  # what stands before a comma is whole
        yield sentence.rpartition(",")[0].partition(",")[0]
        return
    told = {*_words(question)}
    for copula in _COPULA.finditer(sentence):
        if told.issuperset(_words(sentence[: copula.end()])):
            yield sentence[copula.end() :]
    if stated is not None:
        yield stated.text
    yield sentence
    for copula in _COPULA.finditer(sentence):
        yield sentence[copula.end() :]
    yield sentence.partition(",")[0]


def _place(text: str, answer: str, question: str) -> Span | None:
    places = [*_places(text, answer)]
    stated = stated_answer(text, style="lenient", finished=True)
    if stated is not None and is_right(stated.text, answer):
        if stated.tier in ("marker", "box") or not _is_number_in(text, stated):
            return stated.start, stated.end
        # Prose knows a number by its digits: whether it is whole shows here.
        for start, end in places:
            if stated.start <= start < stated.end:
                return start, end
    if not places:
        return None
    start, end = max(places, key=lambda place: place[1])
    if _is_said_first(text, start, end):
        return start, end
    is_told = (len(answer.strip()) == 1 and answer.strip().isalpha()) or any(True for _ in _places(question, answer))
    return None if is_told and _WORD.search(text, end) else (start, end)


def _is_said_first(text: str, start: int, end: int) -> bool:
    """Whether a text begins with a place and a pause: "Yes, since …", "(C) 14"."""
    return not _WORD.search(text, 0, start) and text[end : end + 1] in tuple(",.:!)")


def _is_number_in(text: str, stated: Stated) -> bool:
    return any(stated.start <= start and end == stated.end for start, end in numbers_in(text))


def _places(text: str, answer: str) -> Iterator[Span]:
    """Yield where a text has the answer as a number of its value, or else as its words or signs."""
    has_digits = any(character.isdigit() for character in answer)
    if has_digits or reading(answer).bare is not None:
        for start, end in _number_places(text):
            if is_right(text[start:end] + _unit_behind(text, end), answer):
                yield start, end
    if not has_digits:
        yield from _word_places(text, answer)
    elif len(_WORD.findall(answer)) > 1 or any(character.isalpha() for character in answer):
        yield from _literal_places(text, answer)
    elif answer != "1":  # which is said of many things: this one
        yield from (
            word.span() for word in _WORD.finditer(text) if not word[0][0].isdigit() and is_right(word[0], answer)
        )


def _number_places(text: str) -> Iterator[Span]:
    """Yield where the numbers of a text stand that are no part of something else."""
    taken = {place for match in _POINT.finditer(text) for place in range(*match.span())}
    taken |= {match.start(1) for match in _ENUMERATION.finditer(text)}
    for start, end in numbers_in(text):
        before = text[max(0, start - _NEIGHBOURHOOD) : start].removesuffix("$").removesuffix("\\")
        if start in taken or _GOES_ON.match(text, end) or _WENT_BEFORE.search(before):
            continue
        multiplier = _MULTIPLIER.match(text, end)
        yield start, multiplier.end() if multiplier else end


def _unit_behind(text: str, end: int) -> str:
    """Return the word behind a number if it is a unit of measurement; an answer of 18 km is not one of 18 miles."""
    word = _UNIT.match(text, end)
    unit = "" if word is None else reading(f"1 {word[0]}").unit
    return "" if word is None or not unit or unit in BARE_UNITS else f" {word[0].strip()}"


def _literal_places(text: str, answer: str) -> Iterator[Span]:
    """Yield where mathematics stands as it was said, with nothing that would go on with it."""
    start = text.find(answer)
    while start != -1:
        end = start + len(answer)
        if not _JOINED.search(text[max(0, start - 2) : start]) and not _JOINS.match(text, end):
            yield start, end
        start = text.find(answer, end)


def _word_places(text: str, answer: str) -> Iterator[Span]:
    """Yield where a text has an answer's words, one after the other, capitals or not; articles before them left out."""
    wanted = _words(answer)
    while len(wanted) > 1 and wanted[0] in _ARTICLES:
        del wanted[0]
    if not wanted:
        return
    words = [match for match in _WORD.finditer(text)]
    names = _words(text)
    for first in range(len(names) - len(wanted) + 1):
        if names[first] == wanted[0] and names[first : first + len(wanted)] == wanted:
            yield words[first].start(), words[first + len(wanted) - 1].end()


def _words(text: str) -> list[str]:
    """Return words by what makes them the same: a letter is a name, and b is not B."""
    return [word[0] if len(word[0]) == 1 else word[0].casefold() for word in _WORD.finditer(text)]
