r"""The tree of an answer, as the grammar reads it: operations on numbers and variables, not worked out."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

from rlif.answers.notation import UnreadableError

_TEN = Fraction(10)
_LARGEST_EXPONENT = 9999


class Node(NamedTuple):
    """One operation of a tree.

    Attributes:
        kind: number (its `value`), symbol and constant (their `name`), negative, sum, product, quotient, power, root
            (of `parts`, radicand and index), factorial, absolute, floor, ceiling, percent, degrees, function (its
            `name`), logarithm (base and argument), binomial, either (plus or minus `parts[0]`; `name` is "+" or "-");
            and as a whole answer: list (its last word, "and" or "or", is the `name`), tuple (its two brackets are the
            `name`), set, union, matrix (of rows), relation (operators are the `name`, apart by spaces).
        parts: operands, in the order in which they were written.
        name: see above.
        value: of a number, as it was written.
    """

    kind: str
    parts: tuple[Node, ...] = ()
    name: str = ""
    value: Fraction = Fraction(0)


def number(value: Fraction) -> Node:
    """Return the node of a number as written."""
    return Node("number", value=value)


def factors_of(node: Node) -> tuple[Node, ...]:
    """Return the factors of a product; of anything else itself."""
    return node.parts if node.kind == "product" else (node,)


def read_fraction(text: str) -> Fraction:
    """Read a decimal, with an exponent or without.

    Raises:
        UnreadableError: the exponent has more than four digits.
    """
    digits, _, exponent = text.lower().partition("e")
    if len(exponent) > len(str(_LARGEST_EXPONENT)) + 1 or abs(int(exponent or 0)) > _LARGEST_EXPONENT:
        raise UnreadableError("a number too large")
    return Fraction(digits.rstrip(".") or "0") * _TEN ** int(exponent or 0)


def read_mixed(text: str) -> Node:
    """Read 2 1/2.

    Raises:
        UnreadableError: the fraction is none between 0 and 1.
    """
    whole, rest = text.split(None, 1)
    numerator, denominator = (int(part) for part in rest.split("/"))
    if not 0 < numerator < denominator:
        raise UnreadableError("no proper fraction")
    return number(int(whole) + Fraction(numerator, denominator))


def as_mixed(whole: Node, fraction: Node) -> Node | None:
    """Read 2\\frac{1}{2} as the number that it is; None if it is no mixed number."""
    if not (is_integer(whole) and fraction.kind == "quotient" and all(map(is_integer, fraction.parts))):
        return None
    above, below = (part.value for part in fraction.parts)
    return number(whole.value + above / below) if 0 < above < below else None


def as_scientific(digits: Node, power: Node) -> Node | None:
    """Read 6.63 \\times 10^{-34} as the number that it is; None if it is no number in scientific notation."""
    if digits.kind != "number" or power.kind != "power" or power.parts[0] != number(_TEN):
        return None
    exponent = power.parts[1]
    sign = 1
    if exponent.kind == "negative":
        sign, exponent = -1, exponent.parts[0]
    if not is_integer(exponent) or exponent.value > _LARGEST_EXPONENT:
        return None
    return Node("number", (), "sci", digits.value * _TEN ** (sign * int(exponent.value)))


def is_integer(node: Node) -> bool:
    """Tell whether a node is a whole number, written without an exponent."""
    return node.kind == "number" and node.value.denominator == 1 and not node.name


def is_numeric(node: Node) -> bool:
    """Tell whether there are numbers alone in a tree."""
    return node.kind == "number" or (bool(node.parts) and all(map(is_numeric, node.parts)))
