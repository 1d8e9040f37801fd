"""What the options of a command are: names, types, bounds, old names and help, read from its dataclass.

A command's dataclass inherits the groups that it shares with others (`rlif.options.groups`), each with a `heading`, and
may hold groups of its own as fields. Checks, YAML files and the command line all see the one list that `options_of`
makes. Loads no torch.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import tyro

from rlif.errors import UserError


@dataclass(frozen=True)
class Formerly:
    """Marks an option that had another name in the last release, which still works on the command line and in files."""

    name: str


@dataclass(frozen=True)
class Option:
    """One option of a command."""

    name: str
    """Of the field, of the key in a file, and, with dashes, of the option."""
    hint: Any
    """Type of the value, with all that it was written with."""
    kind: Any
    """Type of the value, but for None and without what `Annotated` adds."""
    optional: bool
    """Whether the value may be None."""
    marks: tuple[Any, ...]
    """What `Annotated` adds to the type: bounds, old names, how tyro reads it."""
    help: str
    """The docstring under the field."""
    section: str
    """Heading in the help; empty for options that stand under none."""
    section_help: str
    field: dataclasses.Field[Any]
    group: str | None
    """Field of the command's dataclass that holds the group which this is a field of; None: it is the command's own."""

    @property
    def old_names(self) -> tuple[str, ...]:
        return tuple(mark.name for mark in self.marks if isinstance(mark, Formerly))

    @property
    def is_group(self) -> bool:
        """Whether the value is a dataclass, whose fields have this name before theirs: --base.seed."""
        return dataclasses.is_dataclass(self.kind)

    @property
    def required(self) -> bool:
        return self.field.default is dataclasses.MISSING and self.field.default_factory is dataclasses.MISSING

    def default(self) -> Any:
        """The value where none is given. Only of one that is not required."""
        if self.field.default_factory is not dataclasses.MISSING:
            return self.field.default_factory()
        return self.field.default

    def value(self, config: Any) -> Any:
        """Return the value in a command's dataclass.

        Raises:
            UserError: the group that the option is in is something else.
        """
        holder = config if self.group is None else getattr(config, self.group)
        if self.group is not None and not (dataclasses.is_dataclass(holder) and hasattr(holder, self.name)):
            raise UserError(f"{self.group}: got {holder!r}, expected options of its own")
        return getattr(holder, self.name)


def options_of(command: Any) -> dict[str, Option]:
    """Return the options of a dataclass, or of an instance of one, by name and in the order of the help.

    First those under no heading: of groups that have but one, and its own. Then group by group, first those that it
    inherits, in the order in which it names them.
    """
    return _options_of(command if isinstance(command, type) else type(command))


@cache
def _options_of(command: type) -> dict[str, Option]:
    fields = {option.name: option for option in _fields(command)}
    bare: list[Option] = []
    headed: list[Option] = []
    for base in command.__bases__:
        names = [field.name for field in dataclasses.fields(base)] if dataclasses.is_dataclass(base) else []
        group = [fields.pop(name) for name in names if name in fields]
        if len(group) == 1:
            bare += group
        else:
            headed += [replace(option, section=vars(base)["heading"], section_help=_doc(base)) for option in group]
    for option in fields.values():
        if option.is_group and tyro.conf.OmitArgPrefixes in option.marks:
            held: dict[str, Any] = {"group": option.name, "section": option.name, "section_help": _doc(option.kind)}
            headed += [replace(each, **held) for each in options_of(option.kind).values()]
        else:
            bare.append(option)
    return {option.name: option for option in [*bare, *headed]}


def plain_type(hint: Any) -> tuple[Any, bool, tuple[Any, ...]]:
    """The type without None and `Annotated`, whether it may be None, and what `Annotated` adds."""
    if get_origin(hint) is Annotated:
        kind, optional, marks = plain_type(get_args(hint)[0])
        return kind, optional, (*get_args(hint)[1:], *marks)
    if get_origin(hint) in (Union, types.UnionType) and type(None) in get_args(hint):
        (inner,) = (each for each in get_args(hint) if each is not type(None))
        kind, _, marks = plain_type(inner)
        return kind, True, marks
    return hint, False, ()


def _fields(kind: type) -> Iterator[Option]:
    """Every field of a dataclass as an option under no heading."""
    hints, helps = get_type_hints(kind, include_extras=True), _helps(kind)
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        yield Option(field.name, hint, *plain_type(hint), helps.get(field.name, ""), "", "", field, None)


def _doc(kind: type) -> str:
    return " ".join((inspect.getdoc(kind) or "").split())


def _helps(kind: type) -> dict[str, str]:
    """The docstrings under the fields of a dataclass and of what it inherits from; the nearest one counts."""
    found: dict[str, str] = {}
    for ancestor in reversed(kind.__mro__):
        found |= _docstrings(ancestor.__module__).get(ancestor.__qualname__, {})
    return found


@cache
def _docstrings(module: str) -> dict[str, dict[str, str]]:
    """By class of a module, the text in quotes under each annotated name."""
    file = getattr(sys.modules[module], "__file__", None)
    if file is None:
        return {}
    classes = [node for node in ast.parse(Path(file).read_bytes()).body if isinstance(node, ast.ClassDef)]
    return {
        each.name: {
            line.target.id: " ".join(following.value.value.split())
            for line, following in zip(each.body, each.body[1:], strict=False)
            if isinstance(line, ast.AnnAssign)
            and isinstance(line.target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
            and isinstance(following.value.value, str)
        }
        for each in classes
    }
