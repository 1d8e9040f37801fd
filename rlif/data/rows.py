"""Rows of tables, and numbers in them as they are written."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple


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
