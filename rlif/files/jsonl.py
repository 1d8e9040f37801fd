"""JSONL files: written whole, or grown row by row so that a run that was killed goes on from their end."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rlif.errors import UserError
from rlif.files.checksums import check_seal, sealed
from rlif.files.json_values import read_json, with_nan, write_json
from rlif.files.whole import write_text

Row = dict[str, Any]
SETTINGS = ".settings.json"


class JsonLines:
    """A file of rows that only grows. What `append` has written, no end of this process can take away."""

    def __init__(
        self, path: Path, *, argument: str = "output_dir", size: int | None = None, checksum: str | None = None
    ) -> None:
        """Make the file, or go on at its end.

        Args:
            path: in a directory that exists.
            argument: that names the file, for error messages.
            size: bytes to go on from, what is beyond them being removed. None: all whole lines; one that was cut short
                is removed.
            checksum: of these bytes, as `checksum` was when they were written; None: nobody knows.

        Raises:
            UserError: the file is shorter than `size`, or has changed.
            OSError: it cannot be read or made.
        """
        self.path, self.argument = path, argument
        with path.open("a+b") as file:
            file.seek(0)
            text = file.read()
            if size is None:
                size = text.rfind(b"\n") + 1
            if len(text) < size:
                raise UserError(f"resume: {path} has {len(text)} bytes, expected the {size} of the checkpoint")
            self._digest = hashlib.sha256(text[:size])
            if checksum not in (None, self.checksum):
                raise UserError(
                    f"resume: {path} has changed since the checkpoint was written; expected it as it was, or a new run "
                    "that starts from the checkpoint's model"
                )
            file.truncate(size)

    @property
    def checksum(self) -> str:
        """The SHA-256 of everything that is in the file."""
        return self._digest.hexdigest()

    def append(self, rows: Iterable[Row], *, synced: bool = True) -> None:
        """Write further rows. With `synced` they are on the disk before this returns; else the system writes them soon.

        Raises:
            UserError: they cannot be written, for want of space perhaps. The rows before them are still there.
        """
        text = _lines(rows).encode()
        try:
            with self.path.open("ab") as file:
                file.write(text)
                file.flush()
                if synced:
                    os.fsync(file.fileno())
        except OSError as error:
            raise UserError(f"{self.argument}: cannot write to {self.path}: {error.strerror}") from error
        self._digest.update(text)

    def sync(self) -> int:
        """Wait until everything that was appended is on the disk, and return the size of the file in bytes.

        Raises:
            UserError: the disk does not take it, or the file is gone.
        """
        try:
            with self.path.open("rb+") as file:  # Windows flushes what was opened to be written to
                os.fsync(file.fileno())
                return os.fstat(file.fileno()).st_size
        except OSError as error:
            raise UserError(f"{self.argument}: cannot write to {self.path}: {error.strerror}") from error

    def replace(self, rows: Iterable[Row]) -> None:
        """Write other rows in place of all that are there; where that fails, these are all still there.

        Raises:
            UserError: they cannot be written.
        """
        text = _lines(rows)
        write_text(self.path, text, argument=self.argument)
        self._digest = hashlib.sha256(text.encode())


class StageFile:
    """Rows of one stage, each with a checksum, and the settings that made them in NAME.settings.json beside them."""

    def __init__(self, path: Path, settings: Mapping[str, object], renamed: Mapping[str, str] | None = None) -> None:
        """Begin the file, or continue one that was made with the same settings; a line cut short is removed.

        One without rows is begun anew whatever its settings: nothing was made with them.

        Args:
            path: of the file; its directory is made.
            settings: what decides the rows.
            renamed: names of settings and of values in rows, as an earlier version wrote them, with those of today.

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
                _check_unchanged(path, settings_of(path, renamed), settings)
                self._file = JsonLines(path)
                self.rows = read_rows(path, renamed=renamed)
            else:
                write_json(settings_path, settings)
                self._file = JsonLines(path)
                self.rows = []
        except (OSError, ValueError) as error:
            raise UserError(f"output_dir: cannot use {path}: {error}") from error

    def append(self, rows: Iterable[Row]) -> None:
        """Write further rows; they are on the disk before this returns.

        Raises:
            UserError: they cannot be written, for want of space perhaps. The rows before them are still there.
        """
        new = list(rows)
        self._file.append(map(sealed, new))
        self.rows += new

    def keep(self, count: int) -> None:
        """Forget all rows but the first `count`; where that fails, they are all still there.

        Raises:
            UserError: the file cannot be written.
        """
        self.rows = self.rows[:count]
        self._file.replace(map(sealed, self.rows))


def write_rows(path: Path, rows: Iterable[Row], *, argument: str = "output_dir") -> None:
    """Write a JSONL file, or replace it.

    Raises:
        UserError: it cannot be written, naming `argument`; what was there before still is.
    """
    write_text(path, _lines(rows), argument=argument)


def read_rows(
    path: Path,
    *,
    argument: str = "output_dir",
    made_by: str | None = None,
    growing: bool = False,
    renamed: Mapping[str, str] | None = None,
    sealed_only: bool = False,
) -> list[Row]:
    """The rows of a JSONL file of objects, without their checksums, if they have any; blank lines are skipped.

    Args:
        path: to read.
        argument: that names the file, for error messages.
        made_by: the command that makes the file, for the message where it cannot be read.
        growing: the file is being written, or its writer was killed: a line cut short at its end is left out.
        renamed: names of values as an earlier version wrote them, with those that the rows get.
        sealed_only: every row has its checksum, or has been changed.

    Raises:
        UserError: naming the file, and the line if one is at fault.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace" if growing else "strict")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        hint = f"; expected the file that `{made_by}` writes" if made_by else ""
        raise UserError(f"{argument}: cannot read {path}: {reason}{hint}") from error
    lines = text.split("\n")  # splitlines() would break at a line separator in a text
    if growing:
        lines.pop()  # what follows the last newline: nothing, or a line that was cut short
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{argument}: {path}, line {number}"
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise UserError(f"{place}: got {line[:60]}, expected an object")
            check_seal(row, place, required=sealed_only)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{place}: not valid JSON: {error}") from error
        rows.append(_renamed(row, renamed))
    return rows


def read_metrics(path: Path, *, argument: str, growing: bool = False) -> list[dict[str, float]]:
    """The rows of a metrics.jsonl: numbers by name, with the step; what was not finite is NaN.

    Raises:
        UserError: naming the file, and the line if one is at fault.
    """
    rows = read_rows(path, argument=argument, made_by="rlif train", growing=growing)
    check_metrics(rows, path, argument=argument)
    return [with_nan(row) for row in rows]


def check_metrics(rows: Iterable[Row], path: Path, *, argument: str, needed: Iterable[str] = ()) -> None:
    """Hold rows of metrics to a step and numbers, null standing for what was not finite; they have those needed.

    Raises:
        UserError: naming the file, and the row that is something else.
    """
    for number, row in enumerate(rows, start=1):
        place = f"{argument}: {path}, row {number}"
        step = row.get("step")
        if type(step) is not int and not (isinstance(step, float) and step.is_integer()):
            raise UserError(f"{place}: got step {step!r}, expected a whole number")
        for name, value in row.items():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            fits = is_number and (isinstance(value, float) or abs(value) <= sys.float_info.max)
            if value is not None and not fits:
                raise UserError(f"{place}: got {name} {str(value)[:40]!r}, expected a number")
        if missing := [name for name in needed if row.get(name) is None]:
            raise UserError(f"{place}: got no {missing[0]}, expected a number")


def settings_of(path: Path, renamed: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The settings that a stage's file was made with, by the names of today; none where it came from elsewhere.

    Raises:
        UserError: the file of settings is damaged.
    """
    settings_path = path.with_suffix(SETTINGS)
    if not settings_path.exists():
        return {}
    settings = read_json(settings_path)
    if not isinstance(settings, dict):
        raise UserError(f"output_dir: {settings_path}: got {str(settings)[:40]}, expected an object")
    return _renamed(settings, renamed)


def _lines(rows: Iterable[Row]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _renamed(row: Row, renamed: Mapping[str, str] | None) -> Row:
    return {renamed.get(name, name): value for name, value in row.items()} if renamed else row


def _check_unchanged(path: Path, saved: Mapping[str, object], settings: Mapping[str, object]) -> None:
    for name in dict.fromkeys([*saved, *settings]):
        if saved.get(name) != settings.get(name):
            raise UserError(
                f"{name}: got {settings.get(name)!r}, but {path} was made with {saved.get(name)!r}; expected the same, "
                f"or another output_dir, or {path.name} removed"
            )
