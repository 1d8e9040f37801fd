"""Figures that commands have drawn, as the page shows them: it loads nothing, so that they are in it."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rlif.errors import UserError

PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Picture:
    """A figure."""

    title: str
    source: str
    """A data URI."""
    is_wide: bool
    """Whether it is more than twice as wide as high, and needs all the width that the page has."""


def picture(path: Path, title: str = "") -> Picture:
    """Read a PNG.

    Raises:
        UserError: it is something else, or cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"runs: cannot read {path}: {error.strerror}") from error
    if not content.startswith(PNG) or len(content) < 24:
        raise UserError(f"runs: {path} is no PNG, expected the figure that rlif drew")
    width, height = struct.unpack_from(">II", content, 16)  # the first chunk of a PNG says it
    return Picture(title, "data:image/png;base64," + base64.b64encode(content).decode(), width > 2 * height)


def pictures(directory: Path, titles: Mapping[str, str]) -> list[Picture]:
    """Read those of some figures that a directory has.

    Args:
        directory: to look in.
        titles: of each, by the name of its file.

    Raises:
        UserError: one is no PNG, or cannot be read.
    """
    return [picture(directory / name, title) for name, title in titles.items() if (directory / name).is_file()]
