"""Checks that options share, each with its one message. Loads no torch."""

from __future__ import annotations

from rlif.errors import UserError


def require_integer(name: str, value: object, minimum: int, why: str = "") -> None:
    """Raise UserError unless the value of that name is an integer of at least the minimum; `why` ends the message."""
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise UserError(f"{name}: got {value!r}, expected an integer of at least {minimum}{why}")
