"""The value of a tree: exactly where it is rational, else to `DIGITS` digits; and keys by which equal values are equal.

A tree with variables is a function, and is known by its values at three fixed points: what is equal there is equal,
but for chance (the identity test of Schwartz and Zippel, with numbers of a hundred digits). At the third point all
variables are negative, so that the root of x^2 is not x. Each operation is bounded in time and memory: what would be
longer than `EXACT_BITS` is no longer exact, and what would be larger than 10^(±100 000) is `UnreadableError`.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Callable, Hashable, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any, TypeAlias

from mpmath import MPContext

from rlif.answers.notation import UnreadableError
from rlif.answers.tree import Node

# Exact, or of `DIGITS` digits: an mpf or an mpc of mpmath, which has no types.
Value: TypeAlias = Any

DIGITS = 120
# Of two values that are equal this many digits agree, also after half of all digits were lost to a difference.
SHOWN_DIGITS = 40
EXACT_BITS = 32_768
POINTS = 3
# Bits of a number that is kept as a key; of a longer one its digest is, for thousands of keys are kept.
_LONGEST_KEY = 2048
_LARGEST_LOGARITHM = 230_000.0  # of 10^100 000
_LARGEST_FACTORIAL = 20_000

_mp = MPContext()
_mp.dps = DIGITS
_NOTHING = _mp.mpf(10) ** -60  # beside what it is the difference of, this is rounding
_SURELY = _mp.mpf(10) ** -50
_LARGEST_ANGLE = _mp.mpf(10) ** 40
# mpmath changes the precision of its context while it works.
_lock = threading.Lock()


@lru_cache(maxsize=1024)
def values_at_points(node: Node) -> tuple[Value, ...]:
    """Evaluate a tree at each point: `POINTS` values, of which the last is None where it has none.

    Raises:
        UnreadableError: it has no value, a value too large, or is no number at all.
    """
    with _lock:
        found = [_value(node, point) for point in range(POINTS - 1)]
        try:
            return (*found, _value(node, POINTS - 1))
        except UnreadableError:
            return (*found, None)


def rational(values: tuple[Value, ...]) -> Fraction | None:
    """Find the one rational number that a tree is at all points; None if it is none."""
    first = values[0]
    if any(not _same(first, each) for each in values[1:]):
        return None
    if isinstance(first, Fraction):
        return first
    with _lock:
        return _as_fraction(first)


def key_of(values: tuple[Value, ...]) -> Hashable:
    """Return a key by which equal values are equal: a fraction where they are rational, else digits."""
    exact = rational(values)
    if exact is not None:
        long = max(exact.numerator.bit_length(), exact.denominator.bit_length()) > _LONGEST_KEY
        return ("long", _digest(f"{exact.numerator:x}/{exact.denominator:x}").hex()) if long else exact
    with _lock:
        if all(_same(values[0], each) for each in values[1:]):
            return _digits(values[0])
        return ("function", *(None if each is None else _digits(each) for each in values))


def ratio(values: tuple[Value, ...], others: tuple[Value, ...]) -> Fraction | None:
    """Find the rational number by which one tree is a multiple of another; None if there is none."""
    with _lock:
        pairs = [(one, other) for one, other in zip(values, others, strict=True) if one is not None and other]
        quotients = tuple(_quotient(one, other) for one, other in pairs)
    return rational(quotients) if quotients else None


def scaled(values: tuple[Value, ...], *, keep_sign: bool) -> tuple[Value, ...]:
    """Divide by the first value, or by its size: what is left of an equation whatever it was multiplied by.

    Raises:
        UnreadableError: the first value is 0 or no real number.
    """
    first = values[0]
    with _lock:
        if not first or (keep_sign and isinstance(first, _mp.mpc)):
            raise UnreadableError("nothing to scale by")
        scale = abs(first) if keep_sign else first
        return tuple(None if each is None else _quotient(each, scale) for each in values)


def is_negative(values: tuple[Value, ...]) -> bool:
    """Tell whether the value at the first point is a negative number."""
    return not isinstance(values[0], _mp.mpc) and values[0] < 0


@lru_cache(maxsize=4096)
def point(name: str, number: int) -> Fraction:
    """Choose where a variable stands at a point: a number from 0.3 to 2.2, below 0 at the last point."""
    value = Fraction(3000 + int.from_bytes(_digest(f"{name} {number}")[:8], "big") % 19_000, 9973)
    return -value if number == POINTS - 1 else value


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=32).digest()


def from_decimals(real: str, imaginary: str) -> Value:
    """Read a value that another process computed, in decimals."""
    with _lock:
        return _plain(_mp.mpc(real, imaginary))


def _value(node: Node, at: int) -> Value:
    if node.kind == "number":
        return node.value
    if node.kind == "symbol":
        return point(node.name, at)
    if node.kind == "constant":
        if node.name == "infinity":
            raise UnreadableError("infinity is no number")
        return {"pi": +_mp.pi, "e": +_mp.e, "i": _mp.mpc(0, 1)}[node.name]
    operation = _OPERATIONS.get(node.kind)
    if operation is None:
        raise UnreadableError(f"{node.kind} is no number")
    if node.kind == "function" and node.parts[0].kind == "degrees":
        parts = [_product([_value(node.parts[0].parts[0], at), _mp.pi / 180])]
    else:
        parts = [_value(part, at) for part in node.parts]
    try:
        result = operation(parts, node.name)
    except (ZeroDivisionError, OverflowError, ValueError, TypeError) as error:
        raise UnreadableError(str(error)) from error
    return _plain(result)


def _plain(value: Value) -> Value:
    """Exact if it may be, real if it is, and neither too large nor no number."""
    if isinstance(value, int):
        value = Fraction(value)
    if isinstance(value, Fraction):
        bits = max(value.numerator.bit_length(), value.denominator.bit_length())
        return value if bits <= EXACT_BITS else _plain(_mp.mpf(value.numerator) / value.denominator)
    value = _mp.mpc(value)
    if not (_mp.isfinite(value.real) and _mp.isfinite(value.imag)):
        raise UnreadableError("not finite")
    size = abs(value)
    if size and abs(_mp.mag(size)) * math.log(2) > _LARGEST_LOGARITHM:
        raise UnreadableError("too large")
    if abs(value.imag) <= size * _NOTHING:
        return value.real
    if abs(value.real) <= size * _NOTHING:
        return _mp.mpc(0, value.imag)
    return value


def _number(value: Value) -> Value:
    return _mp.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


def _numbers(parts: list[Value]) -> list[Value]:
    """All exact or none."""
    return parts if all(isinstance(part, Fraction) for part in parts) else [_number(part) for part in parts]


def _sum(parts: list[Value], _: str = "") -> Value:
    exact = sum((part for part in parts if isinstance(part, Fraction)), Fraction(0))
    rest = [part for part in parts if not isinstance(part, Fraction)]
    if not rest:
        return exact
    terms = [_number(exact), *rest]
    total = _mp.fsum(terms)
    return Fraction(0) if abs(total) <= max(abs(term) for term in terms) * _NOTHING else total


def _product(parts: list[Value], _: str = "") -> Value:
    exact = Fraction(1)
    rest = _mp.mpf(1)
    inexact = False
    for part in parts:
        if isinstance(part, Fraction):
            exact = _plain(exact * part) if isinstance(exact, Fraction) else exact * _number(part)
        else:
            rest, inexact = rest * part, True
    if not inexact or not exact:
        return exact
    return rest * _number(exact)


def _quotient(above: Value, below: Value) -> Value:
    if not below:
        raise UnreadableError("divided by 0")
    above, below = _numbers([above, below])
    return _plain(above / below)


def _power(parts: list[Value], _: str = "") -> Value:
    base, exponent = parts
    if not base:
        if isinstance(exponent, Fraction) and exponent > 0:
            return Fraction(0)
        raise UnreadableError("a power of 0")
    exact = isinstance(base, Fraction) and isinstance(exponent, Fraction)
    if exact and exponent.denominator == 1:
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if bits * abs(exponent) <= EXACT_BITS:
            return base ** int(exponent)
    size = abs(float(_mp.log(abs(_number(base))))) * abs(float(_mp.mpf(abs(_number(exponent)))))
    if size > _LARGEST_LOGARITHM:
        raise UnreadableError("too large")
    if exact and base > 0 and 1 < exponent.denominator <= 64:
        root = _exact_root(base, exponent.denominator)
        if root is not None:
            return _power([root, Fraction(exponent.numerator)])
    return _mp.power(_number(base), _number(exponent))


def _root(parts: list[Value], _: str = "") -> Value:
    radicand, index = parts
    if not isinstance(index, Fraction) or index.denominator != 1 or not 2 <= index <= 1000:
        return _power([radicand, _quotient(Fraction(1), index)])
    if index % 2 and not isinstance(radicand, _mp.mpc) and radicand < 0:
        return -_plain(_root([-radicand, index]))  # the real root of a negative number
    return _power([radicand, 1 / index]) if radicand else Fraction(0)


def _exact_root(base: Fraction, index: int) -> Fraction | None:
    parts = []
    for part in (base.numerator, base.denominator):
        if part.bit_length() > 256:  # its root has not all its digits
            return None
        root = int(_mp.nint(_mp.root(part, index)))
        if root**index != part:
            return None
        parts.append(root)
    return Fraction(*parts)


def _factorial(parts: list[Value], _: str = "") -> Value:
    (number,) = parts
    if not isinstance(number, Fraction) or number < 0 or number > _LARGEST_FACTORIAL:
        if isinstance(number, Fraction) and number.denominator != 1 and abs(number) < _LARGEST_FACTORIAL:
            return _mp.gamma(_number(number + 1))  # of a variable
        raise UnreadableError("a factorial of no natural number")
    if number.denominator == 1 and number < EXACT_BITS // 12:
        return Fraction(math.factorial(int(number)))
    return _mp.gamma(_number(number + 1))


def _binomial(parts: list[Value], _: str = "") -> Value:
    above, below = parts
    if all(isinstance(part, Fraction) and part.denominator == 1 for part in parts):
        if 0 <= below <= above <= 2000:
            return Fraction(math.comb(int(above), int(below)))
        raise UnreadableError("a binomial too large")
    return _quotient(_factorial([above]), _plain(_factorial([below]) * _factorial([_sum([above, -below])])))


def _absolute(parts: list[Value], _: str = "") -> Value:
    return abs(parts[0])


def _floor(parts: list[Value], _: str = "") -> Value:
    if isinstance(parts[0], _mp.mpc):
        raise UnreadableError("no real number")
    return Fraction(math.floor(parts[0]) if isinstance(parts[0], Fraction) else int(_mp.floor(parts[0] + _SURELY)))


def _ceiling(parts: list[Value], _: str = "") -> Value:
    return -_floor([-parts[0]])


def _logarithm(parts: list[Value], _: str = "") -> Value:
    base, argument = parts
    return _quotient(_function([argument], "ln"), _function([base], "ln"))


def _function(parts: list[Value], name: str) -> Value:
    (argument,) = parts
    if name in ("ln", "log", "lg"):
        if not argument:
            raise UnreadableError("the logarithm of 0")
        logarithm = _plain(_mp.log(_number(argument))) if argument != 1 else Fraction(0)
        return logarithm if name == "ln" else _quotient(logarithm, _mp.log(10))
    if name == "exp":
        return _power([+_mp.e, argument])
    argument = _number(argument)
    if abs(argument) > _LARGEST_ANGLE:
        raise UnreadableError("an angle too large")
    result = getattr(_mp, _MPMATH_NAMES.get(name, name))(argument)
    # The sine of pi is rounding; so is what a tangent would be there.
    if abs(result) < _NOTHING:
        return Fraction(0)
    if abs(result) > 1 / _NOTHING:
        raise UnreadableError("infinite")
    return result


_MPMATH_NAMES = {"arcsin": "asin", "arccos": "acos", "arctan": "atan"}
_OPERATIONS: Mapping[str, Callable[[list[Value], str], Value]] = {
    "negative": lambda parts, _: -parts[0],
    "sum": _sum,
    "product": _product,
    "quotient": lambda parts, _: _quotient(*parts),
    "power": _power,
    "root": _root,
    "factorial": _factorial,
    "absolute": _absolute,
    "floor": _floor,
    "ceiling": _ceiling,
    "percent": lambda parts, _: _quotient(parts[0], Fraction(100)),
    "degrees": lambda parts, _: parts[0],
    "function": _function,
    "logarithm": _logarithm,
    "binomial": _binomial,
}


def _same(one: Value, other: Value) -> bool:
    if one is None or other is None:
        return one is None and other is None
    if isinstance(one, Fraction) and isinstance(other, Fraction):
        return one == other
    one, other = _number(one), _number(other)
    return bool(abs(one - other) <= abs(one) * _SURELY)


def _as_fraction(value: Value) -> Fraction | None:
    """The fraction of few digits that a real number is to 50 digits, if there is one: chance has no such fractions."""
    if isinstance(value, Fraction) or not value:
        return Fraction(value or 0)
    if isinstance(value, _mp.mpc) or not 10**-12 < abs(value) < 10**20:
        return None
    sign, mantissa, exponent, _ = value._mpf_
    exact = Fraction(mantissa) * Fraction(2) ** exponent * (-1) ** sign
    near = exact.limit_denominator(10**12)
    return near if near and abs(near - exact) < abs(exact) * Fraction(1, 10**50) else None


def _digits(value: Value) -> Hashable:
    if isinstance(value, _mp.mpc):
        return tuple(_mp.nstr(part, SHOWN_DIGITS, strip_zeros=True) for part in (value.real, value.imag))
    return _mp.nstr(_number(value), SHOWN_DIGITS, strip_zeros=True)
