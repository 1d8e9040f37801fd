r"""Whether an answer is worked out, and the form of one that is not.

`12+34` has the value of `46` and is no answer to "What is 12 + 34?": a policy that is paid for it learns to repeat the
question. An answer is worked out if it is a number as one writes it; a fraction in lowest terms; a root, a multiple of
a constant; or an expression with variables, in which no numbers are left to be added up, multiplied or cancelled and no
like terms to be gathered. A number too long to be written out (2^{100}, 2006!) may stand as a power or a factorial.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from fractions import Fraction
from itertools import combinations

from rlif.answers.notation import UnreadableError
from rlif.answers.tree import Node
from rlif.answers.values import Value, ratio, rational, values_at_points

# A rational number with more digits than these is not written out.
_WRITTEN_OUT = 10**15
# Pairs of more terms than these are not looked at; a sum as long is compared by its value.
_MOST_TERMS = 24


def is_worked_out(node: Node) -> bool:
    """Tell whether nothing is left to be worked out in a tree that has a value."""
    return _is_done(node, values_at_points(node))


def form(node: Node) -> Hashable:
    """Return what tells apart two answers that are not worked out: the operations, whatever the order of operands."""
    parts = [form(part) for part in node.parts]
    if node.kind in ("sum", "product"):
        parts.sort(key=repr)
    value = f"{node.value.numerator:x}/{node.value.denominator:x}" if node.kind == "number" else ""
    return (node.kind, node.name if node.kind != "number" else "", value, *parts)


def _is_done(node: Node, values: tuple[Value, ...]) -> bool:
    if not node.parts:
        return True
    parts = [_try_values(part) for part in node.parts]
    constant = rational(values)
    if constant is not None and max(abs(constant.numerator), constant.denominator) < _WRITTEN_OUT:
        return _is_numeral(node)
    if not all(_is_done(part, value) for part, value in zip(node.parts, parts, strict=True) if value is not None):
        return False
    if node.kind == "negative":
        return node.parts[0].kind != "negative"
    if node.kind == "sum":
        return len(node.parts) > _MOST_TERMS or not any(
            ratio(one, other) is not None
            for one, other in combinations(parts, 2)
            if one is not None and other is not None and not _is_long(one) and not _is_long(other)
        )
    if node.kind == "product":
        return _is_product_done(parts)
    if node.kind == "quotient":
        above, below = (_content(part) for part in node.parts)
        return math.gcd(above, below) == 1 and rational(parts[1] or ()) not in (1, -1)
    return True


def _is_numeral(node: Node) -> bool:
    """Whether a rational number is written as one: 7, -7, 0.5, 50%, or a fraction in lowest terms."""
    if node.kind == "negative":
        return node.parts[0].kind != "negative" and _is_numeral(node.parts[0])
    if node.kind in ("percent", "degrees"):
        return _is_numeral(node.parts[0])
    if node.kind == "quotient":
        if not all(_is_whole(part) for part in node.parts):
            return False
        above, below = (_content(part) for part in node.parts)
        return below > 1 and math.gcd(above, below) == 1
    if node.kind == "product":  # -1/2 is read as a sign before 1, or before the fraction
        return False
    # 10^8 is a number in scientific notation.
    return node.kind == "number" or _is_power_of_ten(node)


def _is_power_of_ten(node: Node) -> bool:
    if node.kind != "power" or node.parts[0].value != 10 or node.parts[0].kind != "number":
        return False
    exponent = node.parts[1].parts[0] if node.parts[1].kind == "negative" else node.parts[1]
    return exponent.kind == "number" and exponent.value.denominator == 1


def _is_product_done(parts: list[tuple[Value, ...] | None]) -> bool:
    """At most one rational factor, and no two whose product is rational."""
    if len(parts) > _MOST_TERMS:
        return True
    constants = [value for value in parts if value is not None]
    numbers = [number for value in constants if (number := rational(value)) is not None]
    if sum(_is_written_out(number) for number in numbers) > 1 or 0 in numbers:
        return False
    inverse = [tuple(None if each is None else 1 / each for each in value) for value in constants if all(value)]
    return not any(
        ratio(constants[one], inverse[other]) is not None
        for one, other in combinations(range(len(inverse)), 2)
        if len(inverse) == len(constants) and rational(constants[one]) is None and rational(constants[other]) is None
    )


def _is_long(values: tuple[Value, ...]) -> bool:
    """Whether a term is a number too long to be written out, so that it cannot be gathered with another."""
    number = rational(values)
    return number is not None and not _is_written_out(number)


def _is_written_out(number: Fraction) -> bool:
    return max(abs(number.numerator), number.denominator) < _WRITTEN_OUT


def _is_whole(node: Node) -> bool:
    if node.kind == "negative":
        return _is_whole(node.parts[0])
    return node.kind == "number" and node.value.denominator == 1


def _content(node: Node) -> int:
    """The whole number that all terms of a numerator or denominator have in common."""
    if node.kind == "number":
        return abs(node.value.numerator) if node.value.denominator == 1 else 1
    if node.kind == "negative":
        return _content(node.parts[0])
    if node.kind == "product":
        return math.prod(_content(part) for part in node.parts)
    if node.kind == "sum":
        return math.gcd(*(_content(part) for part in node.parts))
    return 1


def _try_values(node: Node) -> tuple[Value, ...] | None:
    try:
        return values_at_points(node)
    except UnreadableError:
        return None
