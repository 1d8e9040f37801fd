"""Reading the options of any command from the words of a command line. Loads no torch."""

from __future__ import annotations

import dataclasses
import inspect
import shutil
import textwrap
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Annotated, Any, Optional, Union, get_args

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from rlif.options.fields import Option, options_of
from rlif.options.yaml_file import read_config, with_values


@dataclass
class ConfigFile:
    config: Path | None = None


CONFIG_HELP = "YAML file with any of these options, such as an earlier config.yaml. The command line overrides it."


def parse_options(command: type, words: Sequence[str], prog: str) -> Any:
    """The dataclass that the words of a command line stand for, and the file that `--config` names.

    Args:
        command: the dataclass of a command's options.
        words: those after the command's name.
        prog: the words before them, for the help.

    Raises:
        UserError: of the file.
        SystemExit: after `--help`, and on words that stand for nothing.
    """
    from_file = read_config(path, command, prog) if (path := _config_path(words, prog)) is not None else {}
    given = tyro.cli(
        _as_tyro_wants_it(command, from_file),
        args=words,
        prog=prog,
        description=broken_into_lines(described(command)),
        registry=_registry(),
    )
    sections = [value for name, value in vars(given).items() if name.startswith(SECTION)]
    values = {name: value for part in (given, *sections) for name, value in vars(part).items()}
    words_given = {
        name: values[name]
        for name, option in options_of(command).items()
        # None on the command line; those that are replace the file's rather than join them.
        if name in values and not (_is_appended(option) and values[name] == ())
    }
    return with_values(command, from_file | words_given)


def described(command: type) -> str:
    """Return the docstring of a command's dataclass, each paragraph in one line: tables break lines themselves."""
    paragraphs = (inspect.getdoc(command) or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def broken_into_lines(text: str) -> str:
    """Break the paragraphs of a text that stands above all tables, where tyro does not, to fit the terminal."""
    width = shutil.get_terminal_size().columns
    # Of lines that begin with a letter tyro makes one again, hence the indent.
    return "\n\n".join(textwrap.fill(each, width, subsequent_indent="  ") for each in text.split("\n\n"))


# Before the names of the fields that hold the sections of the help, which the command line never shows.
SECTION = "section_"


def _config_path(words: Sequence[str], prog: str) -> Path | None:
    """The file that `--config` names, which must be read before the other options have their defaults."""
    found, _ = tyro.cli(
        ConfigFile, args=words, prog=prog, return_unknown_args=True, add_help=False, registry=_registry()
    )
    return found.config


def _as_tyro_wants_it(command: type, from_file: Mapping[str, Any]) -> Any:
    """A dataclass with the options of a command, a section of the help in a dataclass each, the file's as defaults."""
    sections: dict[str, list[Option]] = {}
    for option in options_of(command).values():
        if tyro.conf.Suppress not in option.marks:
            sections.setdefault(option.section, []).append(option)
    config = Annotated[Optional[Path], tyro.conf.arg(help=CONFIG_HELP)]  # noqa: UP045 - a value, not an annotation
    fields: list[Any] = [_field(option, from_file) for option in sections.pop("", [])]
    fields.append(("config", config, field(default=None)))
    for number, (title, options) in enumerate(sections.items()):
        section = make_dataclass("Section", [_field(option, from_file) for option in options], kw_only=True)
        heading = tyro.conf.arg(name=title, help=options[0].section_help)
        fields.append((f"{SECTION}{number}", Annotated[section, tyro.conf.OmitArgPrefixes, heading]))
    return make_dataclass(command.__name__, fields, kw_only=True)


def _field(option: Option, from_file: Mapping[str, Any]) -> tuple[str, Any, Any]:
    """One option as a field of a dataclass for tyro."""
    aliases = tuple(f"--{name.replace('_', '-')}" for name in option.old_names)
    kind: Any = Optional[option.kind] if option.optional else option.kind  # noqa: UP045 - a value, not an annotation
    hint: Any = Annotated[(kind, tyro.conf.arg(help=option.help or None, aliases=aliases or None), *option.marks)]
    if _is_appended(option):
        return option.name, hint, field(default=())
    if option.name in from_file:
        return option.name, hint, field(default_factory=lambda: from_file[option.name])
    if option.required:
        return option.name, hint, field()
    return option.name, hint, field(default_factory=option.default)


def _is_appended(option: Option) -> bool:
    """Whether the option is repeated for several values."""
    return tyro.conf.UseAppendAction in option.marks


def _registry() -> ConstructorRegistry:
    """How options are read, where that differs from tyro's way."""
    registry = ConstructorRegistry()

    @registry.primitive_rule
    def optional(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
        """`X | None` looks like `X` in the help, rather than like `{None}|X`; the word None still means none."""
        if info.type_origin not in (Union, types.UnionType) or type(None) not in get_args(info.type):
            return None
        (kind,) = (option for option in get_args(info.type) if option is not type(None))
        spec = registry.get_primitive_spec(PrimitiveTypeInfo.make(kind, info.markers))
        assert isinstance(spec, PrimitiveConstructorSpec)
        return dataclasses.replace(
            spec,
            instance_from_str=lambda words: None if words == ["None"] else spec.instance_from_str(words),
            is_instance=lambda value: value is None or spec.is_instance(value),
            str_from_instance=lambda value: ["None"] if value is None else spec.str_from_instance(value),
        )

    return registry
