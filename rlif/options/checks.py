"""Bounds of options, written where their types are, and the one check that holds values to types and bounds.

    num_generations: Annotated[int, AtLeast(1)] = 8

Loads no torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args, get_origin

from rlif.errors import UserError
from rlif.files.json_values import read_json
from rlif.options.fields import options_of, plain_type

T = TypeVar("T")


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
    """Hold every value of a dataclass of options, and of groups in it, to its type and bounds.

    What text and paths name is not looked at: it shows when it is opened.

    Args:
        config: an instance of the dataclass.
        prefix: of the names in messages, such as "base.".

    Raises:
        UserError: «name: got X, expected …» of the first that does not hold.
    """
    for option in options_of(config).values():
        value = option.value(config)
        if option.is_group:
            if not isinstance(value, option.kind):
                raise UserError(f"{prefix}{option.name}: got {value!r}, expected options of its own")
            check(value, prefix=f"{prefix}{option.name}.")
        else:
            check_value(f"{prefix}{option.name}", value, option.hint)


def read_checked(kind: type[T], path: Path, *, argument: str) -> T:
    """Read a dataclass from the JSON object that is in a file, and hold it to its types and bounds.

    Raises:
        UserError: naming `argument`: the file cannot be read, or holds something else.
    """
    values = read_json(path, argument=argument)
    try:
        made = kind(**values)
    except TypeError as error:  # no object, or other names
        raise UserError(f"{argument}: {path} cannot be used: {error}") from error
    check(made, prefix=f"{argument}: {path}: ")
    return made


def check_value(name: str, value: Any, hint: Any) -> None:
    """Hold one value to a type hint, with the bounds in it.

    Raises:
        UserError: it does not hold.
    """
    kind, optional, marks = plain_type(hint)
    if value is None and optional:
        return
    if get_origin(kind) is tuple:
        if not isinstance(value, tuple | list):  # text would be taken letter by letter
            raise UserError(f"{name}: got {value!r}, expected a tuple")
        check_length(name, value, kind)
        for item in value:
            check_value(name, item, get_args(kind)[0])
        return
    bounds = [mark for mark in marks if isinstance(mark, Bound | Between)]
    if (expected := _expected(value, kind, bounds)) is not None:
        raise UserError(f"{name}: got {value!r}, expected {expected}")


def check_length(name: str, values: Sequence[Any], kind: Any) -> None:
    """Hold several values to the type of a tuple: so many as it names, or, where it ends with an ellipsis, any number.

    Raises:
        UserError: they are more or fewer.
    """
    kinds = get_args(kind)
    if kinds[-1] is not Ellipsis and len(values) != len(kinds):
        raise UserError(f"{name}: got {list(values)!r}, expected {len(kinds)} values")


def _expected(value: Any, kind: Any, bounds: list[Bound | Between]) -> str | None:
    """What was expected instead of the value; None if it is right."""
    if get_origin(kind) is Literal:
        return None if value in get_args(kind) else f"one of {', '.join(get_args(kind))}"
    if kind is bool:
        return None if isinstance(value, bool) else "True or False"
    if kind is str:  # a path may stand for its text
        return None if isinstance(value, str | Path) else "text"
    if kind is Path:
        return None if isinstance(value, Path) else "a pathlib.Path"
    if kind not in (int, float):
        return None
    is_number = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    if is_number and (kind is int or _is_finite(value)) and all(bound.holds(value) for bound in bounds):
        return None
    bounded = any(isinstance(bound, AtMost | Below | Between) for bound in bounds)
    what = "an integer" if kind is int else "a number" if bounded else "a finite number"
    return " ".join([what, " and ".join(map(str, bounds))]).rstrip() + "".join(bound.why for bound in bounds)


def _is_finite(value: float) -> bool:
    """Whether a float can hold the value, and is neither infinite nor NaN."""
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond every float
        return False
