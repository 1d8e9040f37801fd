"""The parts of one piece of work in a JSONL file, each on the disk as soon as it is done, so that it is done once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rlif.errors import UserError
from rlif.files.checksums import sealed
from rlif.files.jsonl import JsonLines, Row, read_rows


class PartsFile:
    """A file whose first row says what the work is, and whose others are its parts, each with a checksum."""

    def __init__(self, path: Path, work: Mapping[str, object], *, argument: str = "resume") -> None:
        """Begin the file, or go on at its end; of other work it is begun anew.

        Args:
            path: in a directory that exists.
            work: what decides the parts, as JSON can hold it.
            argument: that names the file, for error messages.

        Raises:
            UserError: somebody has changed the file, or it cannot be written.
        """
        self.path = path
        try:
            rows = read_rows(path, argument=argument, growing=True, sealed_only=True) if path.exists() else []
            self._file = JsonLines(path)
        except OSError as error:
            raise UserError(f"output_dir: cannot write to {path}: {error.strerror}") from error
        if not rows or rows[0].get("work") != dict(work):
            rows = [{"work": dict(work)}]
            self._file.replace(map(sealed, rows))
        self.rows = rows[1:]

    def append(self, rows: list[Row]) -> None:
        """Write further parts; they are on the disk before this returns.

        Raises:
            UserError: they cannot be written. Those before them are still there.
        """
        self._file.append(map(sealed, rows))
        self.rows += rows
