"""The options of any command as YAML: what `--config` reads, and what a directory holds of the command that made it.

A file has the names of the command line, with underscores. Loads no torch.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml

from rlif.errors import UserError
from rlif.files.whole import write_text
from rlif.options.checks import check_length
from rlif.options.fields import Option, options_of, plain_type


def write_config(config: Any, path: Path, header: str, leave_out: Collection[str] = ()) -> None:
    """Write every option that is not left out.

    Args:
        config: dataclass of a command's options.
        path: of the file.
        header: one line, written as a comment above.
        leave_out: names of options that are not written.

    Raises:
        UserError: it cannot be written; what was there before still is.
    """
    fields = {name: option.value(config) for name, option in options_of(config).items() if name not in leave_out}
    text = yaml.safe_dump(_plain(fields), sort_keys=False, allow_unicode=True)
    write_text(path, f"# {header}\n{text}")


def read_config(path: Path, command: type, prog: str, argument: str = "config") -> dict[str, Any]:
    """The options that a YAML file (or JSON, which is YAML) sets, by name and of the right type.

    Args:
        path: of the file.
        command: dataclass of the command's options.
        prog: how the command is called, for messages: "rlif train".
        argument: the name of the option that names the file, for messages.

    Raises:
        UserError: the file cannot be read, is not a mapping, or holds an unknown name or a value of another type.
    """
    try:
        values = yaml.safe_load(path.expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{argument}: cannot read {path}: {error.strerror}") from error
    except Exception as error:  # of a broken file PyYAML raises what it happens to stumble over
        raise UserError(f"{argument}: {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"{argument}: {path} holds no options, expected lines such as `seed: 1`")
    groups = {option.group for option in options_of(command).values() if option.group is not None}
    flat: list[tuple[object, object]] = []
    for name, value in values.items():  # a group may also be written as the mapping that it is in Python
        flat += value.items() if name in groups and isinstance(value, dict) else [(name, value)]
    return _converted(flat, command, f"{argument}: {path}: ", f"option of {prog}")


def with_values(command: type, values: Mapping[str, Any]) -> Any:
    """Return an instance of the dataclass with these options, and the others at their defaults."""
    options = options_of(command)
    own = {name: value for name, value in values.items() if options[name].group is None}
    grouped = {name: value for name, value in values.items() if options[name].group is not None}
    return with_changes(command(**own), grouped)


def with_changes(config: Any, values: Mapping[str, Any]) -> Any:
    """Return a copy of a dataclass of options with these instead of its own."""
    options = options_of(config)
    changes: dict[str | None, dict[str, Any]] = {}
    for name, value in values.items():
        changes.setdefault(options[name].group, {})[name] = value
    own = changes.pop(None, {})
    groups = {str(group): dataclasses.replace(getattr(config, str(group)), **each) for group, each in changes.items()}
    return dataclasses.replace(config, **own, **groups)


def _converted(values: Iterable[tuple[object, object]], kind: type, where: str, what: str) -> dict[str, Any]:
    """Values beside their names, by the current names of a dataclass's options and of their types."""
    options = options_of(kind)
    renamed = {old: option.name for option in options.values() for old in option.old_names}
    found: dict[str, Any] = {}
    for given, value in values:
        name = renamed.get(str(given), given)
        if name not in options:
            near = difflib.get_close_matches(str(name).replace("-", "_"), options, n=2)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise UserError(f"{where}got {given!r}, which is no {what}{hint}")
        if name in found:
            raise UserError(f"{where}{name}: got it twice, expected it once, by this name or an old one")
        found[str(name)] = _option_value(value, options[str(name)], f"{where}{given}")
    return found


def _option_value(value: object, option: Option, where: str) -> Any:
    if value is None and option.optional:
        return None
    if option.is_group:
        if not isinstance(value, dict):
            raise UserError(f"{where}: got {value!r}, expected options of its own")
        held = _converted(value.items(), option.kind, f"{where}: ", f"option of {option.name}")
        return dataclasses.replace(option.default(), **held)
    return _convert(value, option.kind, where)


def _convert(value: object, kind: Any, where: str) -> Any:
    """The value as the type, which YAML writes a little differently: 1e-5 is text to it, and a tuple a list."""
    if get_origin(kind) is tuple:
        item_kind, _, _ = plain_type(get_args(kind)[0])
        items = value if isinstance(value, list) else [value]
        check_length(where, items, kind)
        return tuple(_convert(item, item_kind, where) for item in items)
    if get_origin(kind) is Literal:
        if value in get_args(kind):
            return value
        raise UserError(f"{where}: got {value!r}, expected one of {', '.join(get_args(kind))}")
    if kind is float and isinstance(value, int | str) and not isinstance(value, bool):
        try:
            return float(value)
        except (ValueError, OverflowError):  # the latter of an integer beyond every float
            pass
    elif kind is Path and isinstance(value, str):
        return Path(value)
    elif isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    name = "text" if kind is str else "a path" if kind is Path else f"a value of type {kind.__name__}"
    raise UserError(f"{where}: got {value!r}, expected {name}")


def _plain(value: Any) -> Any:
    """Paths as text, tuples as lists, dataclasses as mappings."""
    if dataclasses.is_dataclass(value):
        return {name: _plain(option.value(value)) for name, option in options_of(value).items()}
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value
