"""What a data set holds as gold answers, of any type that has a meaning as one: text, or several of which any is right.

Kept apart from `rlif.answers.extract`, which options import, since numpy is loaded here.
"""

from __future__ import annotations

from decimal import Decimal
from numbers import Integral, Rational, Real

import numpy as np

from rlif.answers.extract import extract_answer
from rlif.answers.matching import GoldAnswer

# What a model says that is asked a question whose gold answer is one of these.
_TRUTH: dict[bool, GoldAnswer] = {True: ("true", "yes"), False: ("false", "no")}
# A number is written out up to so many zeros: an exponent may have any number of digits.
_MOST_ZEROS = 1000


def gold_answer(value: object) -> GoldAnswer | None:
    """Return a data set's gold answer as text: of a whole solution the final answer, else itself; None for none.

    Numbers are written out in full and exactly as they were given: 1e-05 is `0.00001`, and a number of numpy is the
    shortest decimal that its own width tells from its neighbours. True is `true` or `yes`, False is `false` or `no`. Of
    a list, an array or a tensor with one dimension any item is right. None, NaN, NaT, empty text and a list of nothing
    else are no answer. Scalars of numpy, torch and pyarrow count as what they hold.

    Raises:
        TypeError: it is none of these.
    """
    value = _held(value)
    if not isinstance(value, list | tuple):
        return _single(value)
    found: list[str] = []
    for item in value:
        answer = _single(_held(item))
        found += [answer] if isinstance(answer, str) else answer or ()
    distinct = tuple(dict.fromkeys(found))
    return distinct if len(distinct) > 1 else next(iter(distinct), None)


def in_words(gold: GoldAnswer) -> str:
    """A gold answer to be read: several are joined by "or"."""
    return gold if isinstance(gold, str) else " or ".join(gold)


def _held(value: object) -> object:
    """What a scalar of pyarrow, or an array of numpy or another library, holds: a Python or numpy scalar, or a list."""
    if hasattr(value, "as_py"):
        value = value.as_py()
    if hasattr(value, "__array__") and not isinstance(value, np.generic):
        array = np.asarray(value)
        value = list(array) if array.ndim else array[()]
    return bool(value) if isinstance(value, np.bool) else value


def _single(value: object) -> GoldAnswer | None:
    if isinstance(value, bool):
        return _TRUTH[value]
    if not isinstance(value, str | Decimal | Real):
        if value is None or str(value) in ("NaT", "<NA>"):
            return None
        raise TypeError(
            f"got {value!r} of type {type(value).__name__}, expected text, a number, true or false, or a list of "
            "those that are right"
        )
    text = value.strip() if isinstance(value, str) else written_out(value)
    answer = extract_answer(text) or text
    return None if answer in ("", "####") else answer


def written_out(number: Decimal | float | Real) -> str:
    """A number in digits, without exponent unless it has a thousand digits; nothing for NaN."""
    if isinstance(number, Rational) and not isinstance(number, Integral):
        return f"{number.numerator}/{number.denominator}"
    if isinstance(number, Decimal):
        exact = number
    else:
        # str() is the shortest decimal of the number's own width; float() would widen a float32 first.
        exact = Decimal(int(number)) if isinstance(number, Integral) else Decimal(str(number))
    if not exact.is_finite():
        return "" if exact.is_nan() else r"-\infty" if exact < 0 else r"\infty"
    return str(exact) if abs(exact.adjusted()) > _MOST_ZEROS and exact.as_tuple().exponent else format(exact, "f")
