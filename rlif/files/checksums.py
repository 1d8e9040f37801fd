"""Checksums: a row of JSON carries its own, which tells whether it has changed on the disk; a file has another's."""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path
from typing import Any

from rlif.errors import UserError
from rlif.files.json_values import json_text

SEAL = "crc32"


def sealed(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row with a checksum of everything else in it, as the last of its values.

    Who changes a row by hand removes the checksum: a row without one is taken as it is.
    """
    return row | {SEAL: _checksum(row)}


def check_seal(row: dict[str, Any], where: str, *, required: bool = False) -> None:
    """Hold a row to its checksum, if it has one, and take that out of it.

    Args:
        row: as it was read.
        where: it was read, for the message.
        required: a row without a checksum has changed, too: nobody is meant to write such rows by hand.

    Raises:
        UserError: beginning with `where`: the row has changed since it was written.
    """
    if SEAL not in row and not required:
        return
    if row.pop(SEAL, None) != _checksum(row):
        instead = "the file removed" if required else f"without its `{SEAL}`"
        raise UserError(f"{where}: has changed since it was written; expected it as it was, or {instead}")


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checksum(row: dict[str, Any]) -> str:
    # As JSON gives it back: in the order of the names, with null for NaN.
    return f"{zlib.crc32(json_text(row, indent=None).encode()):08x}"
