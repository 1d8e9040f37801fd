"""Values are held to the types and bounds that stand beside them, with one form of message."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import pytest
import tyro

from rlif.errors import UserError
from rlif.options.checks import Above, AtLeast, AtMost, Below, Between, Count, check


@dataclass(frozen=True)
class Inner:
    width: Count = 1


@dataclass
class Spread:
    depth: Count = 1


@dataclass(kw_only=True)
class Options:
    count: Count = 1
    group: Annotated[int, AtLeast(2, why=": a group compares")] = 2
    seed: Annotated[int, AtLeast(0), Below(2**63)] = 0
    digits: Annotated[int, Between(2, 9)] = 3
    rate: Annotated[float, Above(0)] = 1.0
    top: Annotated[float, Above(0), AtMost(1)] = 1.0
    coefficient: float = 0.0
    shares: tuple[Annotated[float, Between(0, 1)], ...] = ()
    steps: Count | None = None
    kind: Literal["a", "b"] = "a"
    chat: bool = False
    path: str = "p"
    directory: Path | None = None
    names: tuple[str, ...] = ()
    pair: tuple[str, str] = ("a", "b")
    inner: Inner = field(default_factory=Inner)
    spread: Annotated[Spread, tyro.conf.OmitArgPrefixes] = field(default_factory=Spread)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("count", 0, "an integer of at least 1"),
        ("count", True, "an integer of at least 1"),
        ("count", 1.0, "an integer of at least 1"),
        ("count", "1", "an integer of at least 1"),
        ("count", None, "an integer of at least 1"),
        ("group", 1, "an integer of at least 2: a group compares"),
        ("seed", 2**63, "an integer of at least 0 and below 2**63"),
        ("digits", 10, "an integer from 2 to 9"),
        ("rate", 0, "a finite number greater than 0"),
        ("rate", math.inf, "a finite number greater than 0"),
        ("rate", True, "a finite number greater than 0"),
        ("top", 1.5, "a number greater than 0 and at most 1"),
        ("coefficient", math.nan, "a finite number"),
        ("steps", 0, "an integer of at least 1"),
        ("kind", "c", "one of a, b"),
        ("chat", 1, "True or False"),
        ("chat", "yes", "True or False"),
        ("rate", 10**400, "a finite number greater than 0"),
        ("path", None, "text"),
        ("path", 3, "text"),
        ("directory", "d", "a pathlib.Path"),
        ("names", "all", "a tuple"),
        ("names", None, "a tuple"),
        ("names", 3, "a tuple"),
        ("shares", 0.5, "a tuple"),
        ("pair", ["a"], "2 values"),
        ("inner", None, "options of its own"),
    ],
)
def test_a_value_out_of_its_bounds_is_one_error_with_what_came_and_what_was_expected(
    name: str, value: object, expected: str
) -> None:
    with pytest.raises(UserError) as error:
        check(replace(Options(), **{name: value}))  # type: ignore[arg-type]
    assert str(error.value) == f"{name}: got {value!r}, expected {expected}"


def test_every_item_of_several_values_is_held_to_the_bounds() -> None:
    with pytest.raises(UserError, match=r"^shares: got 1.5, expected a number from 0 to 1$"):
        check(Options(shares=(0.5, 1.5)))


def test_options_of_a_group_have_the_names_that_the_command_line_gives_them() -> None:
    with pytest.raises(UserError, match=r"^inner\.width: got 0, "):
        check(Options(inner=Inner(0)))
    with pytest.raises(UserError, match=r"^depth: got 0, "):
        check(Options(spread=Spread(0)))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rate": 1},
        {"top": 1},
        {"shares": (0, 1)},
        {"seed": 2**63 - 1},
        {"steps": 1},
        {"digits": 2},
        {"path": Path("p")},
    ],
)
def test_the_ends_of_a_range_whole_numbers_and_none_where_it_may_be_are_accepted(changes: dict[str, object]) -> None:
    check(replace(Options(), **changes))  # type: ignore[arg-type]
