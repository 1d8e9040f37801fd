"""Every option that several commands have is defined once, and explained wherever it is offered."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass
from typing import Annotated, ClassVar

import pytest

from rlif.cli import COMMANDS, options_class
from rlif.options import groups, verification
from rlif.options.command_line import parse_options
from rlif.options.fields import Formerly, options_of

GROUPS = [
    value for module in (groups, verification) for value in vars(module).values() if dataclasses.is_dataclass(value)
]


@dataclass(kw_only=True)
class PairOptions:
    """Two of a kind."""

    heading: ClassVar[str] = "pair of"

    first: int = 1
    """The first
    of two."""

    second: int = 2
    """The other."""


@dataclass(kw_only=True)
class LoneOptions:
    """No heading."""

    lone: str
    """Alone."""


@dataclass(kw_only=True)
class Command(PairOptions, LoneOptions):
    """Try it."""

    own: Annotated[float, Formerly("former")] = 0.5
    """Of the command."""

    second: int = 3
    """Told anew."""


def test_options_come_with_help_and_heading_own_ones_and_lone_ones_first() -> None:
    options = options_of(Command)
    assert [(each.name, each.section, each.help) for each in options.values()] == [
        ("lone", "", "Alone."),
        ("own", "", "Of the command."),
        ("first", "pair of", "The first of two."),
        ("second", "pair of", "Told anew."),
    ]
    assert options["first"].section_help == "Two of a kind."
    assert options["lone"].required
    assert options["second"].default() == 3
    assert options_of(Command(lone="x")) == options


def test_the_old_name_of_an_option_still_sets_it() -> None:
    expected = Command(lone="x", own=2.0)
    for name in ("--own", "--former"):
        assert parse_options(Command, ["--lone", "x", name, "2"], prog="try") == expected


def test_help_shows_plain_types_under_headings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_options(Command, ["--help"], prog="try")
    text = capsys.readouterr().out
    assert text.startswith("usage: try [-h] ")
    assert "\n\nTry it.\n\n" in text
    assert "--first INT" in text
    assert "pair of options" in text
    assert "Two of a kind." in text
    assert "--config PATH" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_every_command_says_what_it_is(name: str) -> None:
    unexplained = [each.name for each in options_of(options_class(name)).values() if not each.help]
    assert unexplained == (["reward"] if name == "train" else [])  # whose text is made of the rewards that there are


def test_an_option_of_several_commands_is_declared_in_a_group_unless_each_means_something_else_by_it() -> None:
    shared = {field.name for group in GROUPS for field in dataclasses.fields(group)}
    commands = Counter(option for name in COMMANDS for option in options_of(options_class(name)))
    of_several = {option for option, count in commands.items() if count > 1 and option not in shared}
    both = {"rlif plot and report": {"runs", "output"}, "rlif retry and introspect": {"feedback", "labels"}}
    others = {"reward", "loss_type", "beta", "base", "instruct", "save_steps", "num_train_epochs", "threshold"}
    assert of_several == others.union(*both.values())
