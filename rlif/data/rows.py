"""Rows of tables, and numbers in them as they are written."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

# Digits of a number that is written out; one with more keeps its exponent.
MAX_DIGITS = 400


class TableRow(NamedTuple):
    """One row of a table and where it stands: "line 3" of a text file, "row 3" of another table, from 1."""

    where: str
    values: dict[str, Any]


def as_written(text: str) -> Decimal:
    """A number as it is written: a float would turn 0.00001 into 1e-05.

    Raises:
        ValueError: its exponent is beyond any use.
    """
    try:
        return Decimal(text)
    except InvalidOperation as error:
        raise ValueError(f"{text[:40]} is no number that can be computed with") from error


def written_out(number: float | Decimal) -> str:
    """A number in digits, without an exponent unless it would have more than `MAX_DIGITS`.

    Args:
        number: finite. Of a float the shortest digits that stand for it: 0.00001, where its own form would be 1e-05.
    """
    value = number if isinstance(number, Decimal) else Decimal(str(number))
    is_short = value.is_finite() and abs(value.adjusted()) + len(value.as_tuple().digits) <= MAX_DIGITS
    return format(value, "f") if is_short else str(value)
