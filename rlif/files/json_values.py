"""A JSON file is written whole; NaN and the infinities, which JSON cannot write, are null in it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlif.errors import UserError
from rlif.files.whole import write_text


def without_nan(value: Any) -> Any:
    """The same dicts and lists with None for every number that is not finite, as JSON can hold them."""
    if isinstance(value, Mapping):
        return {name: without_nan(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def with_nan(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of numbers as it was before `without_nan`, with NaN for every None."""
    return {name: math.nan if value is None else value for name, value in row.items()}


def read_json(path: Path, *, argument: str = "output_dir") -> Any:
    """What is in a JSON file.

    Raises:
        UserError: naming `argument`: it cannot be read, or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"it is not JSON ({error})"
        raise UserError(f"{argument}: cannot read {path}: {reason}") from error


def write_json(path: Path, value: Any, *, indent: int | None = 1, argument: str = "output_dir") -> None:
    """Write a JSON file, or replace it, with null for every number that is not finite.

    Raises:
        UserError: it cannot be written, naming `argument`; what was there before still is.
    """
    write_text(path, json_text(value, indent=indent) + "\n", argument=argument)


def json_text(value: Any, *, indent: int | None = 1) -> str:
    """Return JSON in ASCII, with null for every number that is not finite."""
    return json.dumps(without_nan(value), indent=indent, allow_nan=False)
