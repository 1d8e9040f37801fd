"""A JSONL file that grows as a stage goes on, and from whose end an interrupted stage continues."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlif.errors import UserError
from rlif.files.directories import write_text

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Row = dict[str, Any]
SETTINGS = ".settings.json"


class StageFile:
    """Rows of one stage, with the settings that made them in NAME.settings.json beside them."""

    def __init__(self, path: Path, settings: Mapping[str, object]) -> None:
        """Begin the file, or continue one that was made with the same settings; a line cut short is removed.

        One without rows is begun anew whatever its settings: nothing was made with them.

        Raises:
            UserError: the file was made with other settings, or has rows of unknown ones, is damaged, or cannot be
                written.
        """
        self.path = path
        settings_path = path.with_suffix(SETTINGS)
        settings = json.loads(json.dumps(settings))  # tuples become lists, as in the file
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists() and path.stat().st_size > 0:
                if not settings_path.exists():
                    raise UserError(
                        f"output_dir: {path} has rows, but {settings_path.name}, which says what made them, is "
                        f"missing; expected it beside them, or another output_dir, or {path.name} removed"
                    )
                _check_unchanged(path, json.loads(settings_path.read_text(encoding="utf-8")), settings)
                _remove_cut_line(path)
                self.rows = read_rows(path)
            else:
                write_text(settings_path, json.dumps(settings, indent=1) + "\n")
                path.write_text("", encoding="utf-8")
                self.rows = []
        except (OSError, ValueError) as error:
            raise UserError(f"output_dir: cannot use {path}: {error}") from error

    def append(self, rows: Iterable[Row]) -> None:
        """Write further rows; they are on the disk before this returns.

        Raises:
            UserError: they cannot be written, for want of space perhaps. The rows before them are still there.
        """
        new = list(rows)
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_lines(new))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UserError(f"output_dir: cannot write to {self.path}: {error.strerror}") from error
        self.rows += new

    def keep(self, count: int) -> None:
        """Forget all rows but the first `count`; where that fails, they are all still there.

        Raises:
            UserError: the file cannot be written.
        """
        self.rows = self.rows[:count]
        try:
            write_text(self.path, _lines(self.rows))
        except OSError as error:
            raise UserError(f"output_dir: cannot write to {self.path}: {error.strerror}") from error


def read_rows(
    path: Path, *, argument: str = "output_dir", made_by: str | None = None, growing: bool = False
) -> list[Row]:
    """The rows of a JSONL file of objects; blank lines are skipped.

    Args:
        path: to read.
        argument: that names the file, for error messages.
        made_by: the stage that makes the file, likewise.
        growing: the file is a stage's, which may have been killed while it wrote: a line cut short at its end is left
            out.

    Raises:
        UserError: naming the file, and the line if one is at fault.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace" if growing else "strict")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        hint = f"; expected the file that `rlif self-feedback {made_by}` writes" if made_by else ""
        raise UserError(f"{argument}: cannot read {path}: {reason}{hint}") from error
    lines = text.split("\n")  # splitlines() would break at a line separator in a text
    if growing:
        lines.pop()  # what follows the last newline: nothing, or a line that was cut short
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{argument}: {path}, line {number}: not valid JSON: {error}") from error
        if not isinstance(row, dict):
            raise UserError(f"{argument}: {path}, line {number}: got {line[:60]}, expected an object")
        rows.append(row)
    return rows


def settings_of(path: Path) -> dict[str, Any]:
    """The settings that a stage's file was made with; none where it came from elsewhere."""
    settings_path = path.with_suffix(SETTINGS)
    return json.loads(settings_path.read_text(encoding="utf-8")) if settings_path.exists() else {}


def fingerprint(items: Iterable[DataclassInstance]) -> str:
    """Changes with any field of the dataclass instances, and with their order."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(json.dumps(dataclasses.astuple(item)).encode())
    return digest.hexdigest()[:16]


def _lines(rows: Iterable[Row]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _remove_cut_line(path: Path) -> None:
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)


def _check_unchanged(path: Path, saved: Mapping[str, object], settings: Mapping[str, object]) -> None:
    for name in dict.fromkeys([*saved, *settings]):
        if saved.get(name) != settings.get(name):
            raise UserError(
                f"{name}: got {settings.get(name)!r}, but {path} was made with {saved.get(name)!r}; expected the same, "
                f"or another output_dir, or {path.name} removed"
            )
