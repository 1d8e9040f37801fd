"""Bounds of options, written where their types are, and the one check that holds values to types and bounds.

    num_generations: Annotated[int, AtLeast(1)] = 8

Loads no torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

from rlif.errors import UserError
from rlif.options.fields import options_of, plain_type


@dataclass(frozen=True)
class Bound:
    """What a number has to be beside a limit."""

    limit: float
    why: str = ""
    """Ends the message of a value that is not."""

    phrase: ClassVar[str]
    """Stands before the limit in messages."""

    def holds(self, value: float) -> bool:
        raise NotImplementedError

    def __str__(self) -> str:
        large = isinstance(self.limit, int) and self.limit > 2**32
        return f"{self.phrase} {f'2**{math.log2(self.limit):g}' if large else f'{self.limit:g}'}"


class AtLeast(Bound):
    """The value is the limit or more."""

    phrase = "of at least"

    def holds(self, value: float) -> bool:
        return value >= self.limit


class Above(Bound):
    """The value is more than the limit."""

    phrase = "greater than"

    def holds(self, value: float) -> bool:
        return value > self.limit


class AtMost(Bound):
    """The value is the limit or less."""

    phrase = "at most"

    def holds(self, value: float) -> bool:
        return value <= self.limit


class Below(Bound):
    """The value is less than the limit."""

    phrase = "below"

    def holds(self, value: float) -> bool:
        return value < self.limit


@dataclass(frozen=True)
class Between:
    """The value is one of the two limits, or between them."""

    low: float
    high: float
    why: str = ""

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"from {self.low:g} to {self.high:g}"


Count = Annotated[int, AtLeast(1)]
Share = Annotated[float, Between(0, 1)]
Positive = Annotated[float, Above(0)]


def check(config: Any, prefix: str = "") -> None:
    """Hold every number, choice and flag of a dataclass of options, and of groups in it, to its type and bounds.

    Text and paths are not looked at: what they name shows when it is opened.

    Args:
        config: an instance of the dataclass.
        prefix: of the names in messages, such as "base.".

    Raises:
        UserError: «name: got X, expected …» of the first that does not hold.
    """
    for option in options_of(config).values():
        value = option.value(config)
        if option.is_group:
            check(value, prefix=f"{prefix}{option.name}.")
        else:
            check_value(f"{prefix}{option.name}", value, option.hint)


def check_value(name: str, value: Any, hint: Any) -> None:
    """Hold one value to a type hint, with the bounds in it.

    Raises:
        UserError: it does not hold.
    """
    kind, optional, marks = plain_type(hint)
    if value is None and optional:
        return
    if get_origin(kind) is tuple:
        for item in value:
            check_value(name, item, get_args(kind)[0])
        return
    bounds = [mark for mark in marks if isinstance(mark, Bound | Between)]
    if (expected := _expected(value, kind, bounds)) is not None:
        raise UserError(f"{name}: got {value!r}, expected {expected}")


def _expected(value: Any, kind: Any, bounds: list[Bound | Between]) -> str | None:
    """What was expected instead of the value; None if it is right."""
    if get_origin(kind) is Literal:
        return None if value in get_args(kind) else f"one of {', '.join(get_args(kind))}"
    if kind is bool:
        return None if isinstance(value, bool) else "True or False"
    if kind not in (int, float):
        return None
    is_number = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    if is_number and (kind is int or math.isfinite(value)) and all(bound.holds(value) for bound in bounds):
        return None
    bounded = any(isinstance(bound, AtMost | Below | Between) for bound in bounds)
    what = "an integer" if kind is int else "a number" if bounded else "a finite number"
    return " ".join([what, " and ".join(map(str, bounds))]).rstrip() + "".join(bound.why for bound in bounds)
