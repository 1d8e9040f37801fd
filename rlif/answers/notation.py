r"""Many ways to write the same sign, brought to one: Unicode, spacing and layout of LaTeX, thousands separators.

What changes no meaning is changed here, by one pass each; what might is left to the grammar.
"""

from __future__ import annotations

import re
from fractions import Fraction

_SIGNS = str.maketrans(
    {
        "\ufeff": "", "\u2044": "/", "\u2215": "/", "\ufe63": "-",
        "\u2212": "-", "\u2010": "-", "\u2011": "-", "\uff0d": "-", "\u00d7": r"\times ", "\u00b7": r"\cdot ",
        "\u22c5": r"\cdot ", "\u2217": "*", "\u00f7": r"\div ", "\u03c0": r"\pi ", "\u221e": r"\infty ",
        "\u2264": r"\le ", "\u2265": r"\ge ", "\u2260": r"\ne ", "\u2248": r"\approx ", "\u221a": r"\sqrt ",
        "\u00b0": r"^\circ ", "\u00ba": r"^\circ ", "\u00bd": " 1/2", "\u00bc": " 1/4",
        "\u00be": " 3/4", "\u2153": " 1/3", "\u2154": " 2/3", "\u215b": " 1/8", "\u222a": r"\cup ", "\u2208": r"\in ",
        "\u2205": r"\emptyset ", "\u00b1": r"\pm ", "\u03b8": r"\theta ", "\u03b1": r"\alpha ", "\u03b2": r"\beta ",
        "\u03bb": r"\lambda ", "\u00a0": " ", "\u202f": " ", "\u2009": " ", "\u200b": "", "\uff05": "%",
        "\u2155": " 1/5", "\u2156": " 2/5", "\u2157": " 3/5", "\u2158": " 4/5", "\u2159": " 1/6", "\u215a": " 5/6",
        "\u215c": " 3/8", "\u215d": " 5/8", "\u215e": " 7/8", "\u2150": " 1/7", "\u2151": " 1/9", "\u2152": " 1/10",
        "\u201c": '"', "\u201d": '"', "\u2018": "'", "\u2019": "'",
    }
)  # fmt: skip
# An en dash is a minus only where nothing stands before it.
_DASH = re.compile(r"(?:(?<=[(,=])|^)(\s*)\u2013(?=\s?[0-9.\\$])")
_RAISED = "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207a\u207b\u207f\u02e3"
_EXPONENT = re.compile(f"[{_RAISED}]+")
_LOWERED = "\u2080\u2081\u2082\u2083\u2084\u2085\u2086\u2087\u2088\u2089"
_INDEX = re.compile(f"[{_LOWERED}]+")
_LEVELLED = str.maketrans(_RAISED + _LOWERED, "0123456789+-nx0123456789")
# 10,\!080  10{,}080  1\,000  1 000
_THOUSANDS_OF_LATEX = re.compile(r"(?<=[0-9])(?:\{,\}|,\\! ?|\\,|\\;|\\ |~| )(?=[0-9]{3}(?![0-9]|\s*/))")
_THOUSANDS = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9]|,[0-9])")
_THOUSANDS_WITH_ZERO = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:,0[0-9]{2})+(?![0-9]|,[0-9])")
_LAYOUT = re.compile(
    r"\\(?:left|right|middle|bigl|bigr|Bigl|Bigr|big|Big|bigg|Bigg|displaystyle|textstyle|limits|nolimits|quad|qquad)"
    r"(?![A-Za-z])|(?<!\\)\\[!,;: ()\[\]]|~|(?<!\\)\$"
)
_SAME_COMMAND = re.compile(
    r"\\(?:[dtc]frac|[dt]binom|lbrace|rbrace|vert|mid|rvert|ge(?:qslant)?|le(?:qslant)?|ne|cdotp|bmod|colon)(?![A-Za-z])"
)
_COMMANDS = {
    r"\dfrac": r"\frac", r"\tfrac": r"\frac", r"\cfrac": r"\frac", r"\dbinom": r"\binom", r"\tbinom": r"\binom",
    r"\lbrace": r"\{", r"\rbrace": r"\}", r"\vert": "|", r"\cdotp": r"\cdot", r"\colon": ":",
}  # fmt: skip
_WORD_COMMAND = re.compile(
    r"\\(?:text|textrm|textbf|textit|textsf|mathrm|mathbf|mathit|mathsf|mathbb|mbox|hbox|operatorname|boldsymbol|rm|bf)"
    r"\s*\{([^{}]*)\}"
)
_REPEATING = re.compile(r"([0-9]*)\.([0-9]{0,12})\\(?:overline|bar|dot)\s*\{?([0-9]{1,12})\}?")
_PERCENT = re.compile(r"\s*(?:\\text\s*\{\s*)?\bper ?cent(?:age points?)?\b\s*\}?$", re.IGNORECASE)
_TIMES_LETTER = re.compile(r"(?<=[0-9])\s*[xX]\s*(?=10\s*\^)")


class UnreadableError(ValueError):
    """A text is no mathematics that is read here, or takes too much to work out."""


def one_notation(text: str) -> str:
    """Write signs and layout in one way; commands for words (`\\text{…}`) are kept."""
    if not text.isascii():
        text = _EXPONENT.sub(lambda raised: f"^{{{raised[0].translate(_LEVELLED)}}}", text)
        text = _INDEX.sub(lambda lowered: f"_{{{lowered[0].translate(_LEVELLED)}}}", text)
        text = _DASH.sub(r"\1-", text).translate(_SIGNS)
    text = _THOUSANDS_OF_LATEX.sub("", text)
    if "," in text:
        text = text.replace("{,}", ",")
        # Between brackets a comma parts the coordinates of a point, which do not begin with zeros.
        bracketed = any(bracket in text for bracket in ("(", "[", r"\{"))
        text = (_THOUSANDS_WITH_ZERO if bracketed else _THOUSANDS).sub(_without_commas, text)
    if "\\" in text or "$" in text or "~" in text:
        text = _LAYOUT.sub(lambda match: "" if match[0] in (r"\!", "$") else " ", text)
        text = _SAME_COMMAND.sub(lambda match: _COMMANDS.get(match[0], match[0]), text)
        text = _REPEATING.sub(_repeating_decimal, text)
    text = _PERCENT.sub("%", text)
    return _TIMES_LETTER.sub(r"\\times ", text).strip()


def without_word_commands(text: str) -> str:
    r"""Replace `\text{…}` and its like by what is in it."""
    return _WORD_COMMAND.sub(r" \1 ", text) if "\\" in text else text


def _without_commas(match: re.Match[str]) -> str:
    return match[0].replace(",", "")


def _repeating_decimal(match: re.Match[str]) -> str:
    whole, fixed, repeated = match.groups()
    scale = 10 ** len(fixed)
    value = Fraction(int((whole or "0") + fixed), scale)
    value += Fraction(int(repeated), scale * (10 ** len(repeated) - 1))
    return str(value.numerator) if value.denominator == 1 else f"({value.numerator}/{value.denominator})"
