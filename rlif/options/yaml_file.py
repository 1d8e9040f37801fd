"""A training configuration as YAML: what a run directory holds, and what `--config` reads."""

from __future__ import annotations

import dataclasses
import difflib
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from rlif.errors import UserError
from rlif.training.options import TrainConfig


def write_config(config: TrainConfig, path: Path, header: str) -> None:
    """Write every field but the run directory, so that `rlif train --config` repeats the run in another one.

    Args:
        config: to write.
        path: of the file.
        header: one line, written as a comment above.
    """
    fields = dataclasses.asdict(config)
    del fields["run_dir"]
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in fields.items()}
    text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
    path.write_text(f"# {header}\n{text}", encoding="utf-8")


def read_config(path: Path) -> dict[str, Any]:
    """The fields of `TrainConfig` that a YAML file sets, by name and of the right type.

    Raises:
        UserError: the file cannot be read, is not a mapping, or holds an unknown name or a value of another type.
    """
    try:
        values = yaml.safe_load(path.expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"config: cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"config: {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"config: {path} holds no options, expected lines such as `max_steps: 100`")
    hints = get_type_hints(TrainConfig)
    for name in values:
        if name not in hints:
            near = difflib.get_close_matches(str(name).replace("-", "_"), hints, n=2)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise UserError(f"config: {path}: got {name!r}, which is no option of rlif train{hint}")
    return {name: _convert(value, hints[name], f"config: {path}: {name}") for name, value in values.items()}


def _convert(value: object, hint: Any, where: str) -> Any:
    """The value as the type, which YAML writes a little differently: 1e-5 is text to it, and a tuple a list."""
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if value is None and type(None) in options:
        return None
    expected = next(option for option in options if option is not type(None))
    if get_origin(expected) is tuple:
        items = value if isinstance(value, list) else [value]
        return tuple(_convert(item, get_args(expected)[0], where) for item in items)
    if get_origin(expected) is Literal:
        if value in get_args(expected):
            return value
        raise UserError(f"{where}: got {value!r}, expected one of {', '.join(get_args(expected))}")
    if expected is float and isinstance(value, int | str) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    elif expected is Path and isinstance(value, str):
        return Path(value)
    elif isinstance(value, expected) and not (expected is int and isinstance(value, bool)):
        return value
    name = "text" if expected is str else "a path" if expected is Path else f"a value of type {expected.__name__}"
    raise UserError(f"{where}: got {value!r}, expected {name}")
