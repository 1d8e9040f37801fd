r"""One canonical key for every answer: two answers are the same if and only if their keys are equal.

Since sameness is equality of keys, it is an equivalence by construction: no order of samples changes a group. A key is
found in this order, and remembered:

1. A plain number is its exact value (`1,000.0` and `1e3` are the same number).
2. What reads as mathematics is parsed by a grammar of our own (`grammar.py`) and evaluated (`values.py`): exactly where
   it is rational, else to many digits, at fixed points of its variables.
3. LaTeX beyond that grammar (integrals, limits, sums, …) is parsed by math-verify in a process of its own, once, within
   limits (`math_verification.py`), and evaluated at the same points. What is not parsed in time is text.
4. Everything else is text, where the same words match.

A key says also whether the answer is worked out (`worked.py`): `12+34` is never `46`.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from rlif.answers.decoration import undecorated
from rlif.answers.grammar import parse
from rlif.answers.math_verification import OverLimitError, evaluated
from rlif.answers.notation import UnreadableError, one_notation, without_word_commands
from rlif.answers.structure import meaning
from rlif.answers.tokens import FUNCTIONS
from rlif.answers.units import BARE_UNITS, split_currency, split_unit
from rlif.answers.values import key_of, rational

# Longer ones are text: no gold answer is as long, and a policy may write anything.
_LONGEST_MATHEMATICS = 400
_NUMBER = re.compile(r"[+-]?(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,2})?")
_WHOLE_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{(.*)\}", re.DOTALL)
_WHOLE_WORDS = re.compile(r"\\(?:text|textrm|textbf|textit|mathrm|mathbf|mbox|hbox)\s*\{([^{}]*)\}")
_SPACE = re.compile(r"\s+")
# Dates, codes and sums that nobody has added up.
_DIGITS_AND_SIGNS = re.compile(r"[0-9][0-9+\-*. ]*[-+*][0-9+\-*. ]*")
_SCIENTIFIC = re.compile(r"[0-9][eE*]")
_TIME = re.compile(r"([0-9]{1,2}):([0-9]{2})")
# What an equation names before its value, in words or as a function: Area = 5, f(x) = x^2, \angle ABC = 30.
_LABEL = re.compile(
    r"^(?:[A-Z]{2,3}|(?:[A-Za-z]+ ){0,4}[A-Za-z]{4,}(?: [a-z]+){0,3}|\\(?:text|mathrm)\s*\{[^{}]{1,60}\}"
    r"|\\angle\s*[A-Z]{1,3}|[A-Za-z](?:\^\{?-1\}?)?\([A-Za-z](?:,\s?[A-Za-z])*\))\s*=\s*(?=[^=]+$)"
    r"|^(?:\\approx|\\sim|about|approximately)\s+(?=[^=]+$)"
)
_SUBSCRIPT = re.compile(r"_\{([A-Za-z0-9]+)\}")
_SPACE_AT_SIGN = re.compile(r" ?([:,;=()]) ?")
_LETTERS = re.compile(r"[A-Za-z]+")
_CHOICE = re.compile(r"\(?([A-Za-z])\)?\.?")
_WORD = re.compile(r"[A-Za-z]{2,}")
# What computer algebra works out; it is not asked about other commands, which it may leave out without a word.
_CALCULUS = re.compile(r"\\(?:sum|prod|int|iint|iiint|oint|lim|max|min|gcd|lcm)(?![A-Za-z])|\\frac\s*\{\s*d\s*\}")
_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip
_TENS = ("thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_NUMBER_WORDS = {word: number for number, word in enumerate(_ONES)} | {
    word: 10 * number for number, word in enumerate(_TENS, start=3)
}


class Reading(NamedTuple):
    """What an answer says, in parts."""

    value: Hashable
    """Equal for answers of equal value."""
    unit: str = ""
    """The one name of its unit, also of one that is no part of the key; "%" for a percentage, whose value is that."""
    form: Hashable = None
    """What else tells an answer apart that is not worked out; None for one that is."""
    bare: Hashable = None
    """`value` without the unit."""

    @property
    def key(self) -> Hashable:
        """The canonical key."""
        unit = self.unit
        if unit:
            unit = " ".join(word for word in unit.split() if word != "%" and word not in BARE_UNITS)
        return (self.value, unit, self.form)


def answer_key(answer: str) -> Hashable:
    """Return the canonical key of an answer: equal for two answers that are the same, and only for them.

    Bounded in time and memory for any text.
    """
    if answer.isdecimal() and answer.isascii() and len(answer) <= _LONGEST_MATHEMATICS:
        return (int(answer), "", None)  # most answers are whole numbers, which nothing need remember
    return reading(answer).key


def reading(answer: str) -> Reading:
    """Read an answer by the rules above."""
    try:
        return _remembered(answer) if len(answer) <= _LONGEST_MATHEMATICS else _read(answer)
    except OverLimitError:
        return _as_text(answer.strip())  # not remembered: it may be read another time


@lru_cache(maxsize=100_000)
def _remembered(answer: str) -> Reading:
    return _read(answer)


def _read(answer: str) -> Reading:
    text = answer.strip()
    number = _plain_number(text)
    if number is not None:
        return Reading(number, bare=number)
    span = undecorated(text, 0, len(text))
    text = "" if span is None else text[slice(*span)]
    if len(text) > _LONGEST_MATHEMATICS:
        return _as_text(text)
    boxed = _WHOLE_BOX.fullmatch(text)
    if boxed and _is_balanced(boxed[1]):
        return _read(boxed[1])
    words = _WHOLE_WORDS.fullmatch(text)
    if words:
        return _read(words[1])
    # Digits of other scripts would be read as numbers.
    if any(character.isdecimal() and not character.isascii() for character in text):
        return _as_text(text)
    return _as_mathematics(text) or _as_text(text)


def _as_mathematics(text: str) -> Reading | None:
    amount, currency = split_currency(text)
    written = _LABEL.sub("", one_notation(amount))
    latex = any(sign in amount + written for sign in ("\\", "$", "^"))
    before_unit, unit, exponent = split_unit(written, currency)
    plain = without_word_commands(before_unit).strip()
    scale = Fraction(10) ** exponent
    number = _plain_number(plain)
    if number is not None:
        return Reading(number * scale, unit, bare=number * scale)
    clock = _clock(plain, unit)
    if clock is not None or not plain or _is_text(plain, latex):
        return clock
    try:
        tree = parse(plain)
        value, unfinished = meaning(tree)
    except UnreadableError:
        return _by_computer_algebra(plain, unit) if _CALCULUS.search(plain) else None
    if exponent:
        return Reading(value * scale, unit, unfinished, value * scale) if isinstance(value, Fraction) else None
    if tree.kind == "percent" and isinstance(value, Fraction):
        return Reading(value, "%", unfinished, value * 100)
    return Reading(value, unit, unfinished, value)


def _clock(text: str, unit: str) -> Reading | None:
    """5:30 PM, and 5:00 PM as 5 PM."""
    time = _TIME.fullmatch(text) if unit in ("am", "pm") else None
    if time is None:
        return None
    hours, minutes = int(time[1]), int(time[2])
    value: Hashable = Fraction(hours) if minutes == 0 else ("time", hours, minutes)
    return Reading(value, unit, bare=value)


def _by_computer_algebra(text: str, unit: str) -> Reading | None:
    values = evaluated(text)
    if values is None:
        return None
    # Whatever has to be evaluated by computer algebra is not worked out if it is but a number.
    value = key_of(values)
    return Reading(value, unit, ("text", text) if rational(values) is not None else None, value)


def _as_text(text: str) -> Reading:
    if len(text) <= _LONGEST_MATHEMATICS:
        text = _SUBSCRIPT.sub(r"_\1", without_word_commands(one_notation(text)))
    text = _SPACE_AT_SIGN.sub(r"\1", _SPACE.sub(" ", text)).strip().removesuffix(".")
    choice = _CHOICE.fullmatch(text)
    if choice:
        return Reading(("text", choice[1]))
    number = _number_in_words(text) if len(text) < 20 else None
    if number is not None:
        return Reading(Fraction(number), bare=Fraction(number))
    # A letter is a name, and b is not B; words are the same in capitals.
    return Reading(("text", _WORD.sub(lambda word: word[0].casefold(), text)))


def _is_text(text: str, latex: bool) -> bool:
    """Whether what might be read as mathematics is none: words, a choice, a date, a sum that nobody has added up."""
    if _LETTERS.fullmatch(text) or _CHOICE.fullmatch(text):
        return True
    if latex:
        return False
    if _DIGITS_AND_SIGNS.fullmatch(text) and not _SCIENTIFIC.search(text):
        return True
    return any(not _may_be_mathematics(text, word) for word in _WORD.finditer(text))


def _may_be_mathematics(text: str, word: re.Match[str]) -> bool:
    """Whether letters in plain text are a function, "and" between answers, or a product such as the xy of 2xy."""
    if word[0] in FUNCTIONS or word[0] in ("pi", "and", "or"):
        return True
    before, after = text[word.start() - 1 : word.start()], text[word.end() : word.end() + 1]
    return len(word[0]) <= 3 and (before.isdigit() or after == "^")


def _plain_number(text: str) -> Fraction | int | None:
    if text.isdecimal() and text.isascii() and len(text) <= _LONGEST_MATHEMATICS:
        return int(text)  # most answers are; equal to the fraction, and so is its hash
    if len(text) > _LONGEST_MATHEMATICS or not _NUMBER.fullmatch(text):
        return None
    return Fraction(text.replace(",", "").replace("E", "e").replace(".e", "e").rstrip("."))


def _number_in_words(text: str) -> int | None:
    tens, _, ones = text.casefold().replace("-", " ").partition(" ")
    if tens not in _NUMBER_WORDS:
        return None
    number = _NUMBER_WORDS[tens]
    if not ones:
        return number
    unit = _NUMBER_WORDS.get(ones, 0)
    return number + unit if number >= 20 and 0 < unit < 10 else None


def _is_balanced(text: str) -> bool:
    depth = 0
    for character in text:
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth < 0:
            return False
    return depth == 0
