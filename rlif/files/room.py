"""Whether a disk has room for what is to be written."""

from __future__ import annotations

import shutil
from pathlib import Path

from rlif.errors import UserError


def check_room(output_dir: Path, needed: int) -> None:
    """Refuse to begin where weights cannot end.

    Args:
        output_dir: to be made.
        needed: bytes.

    Raises:
        UserError: fewer are free where it is to be made.
    """
    parent = next(parent for parent in output_dir.absolute().parents if parent.exists())
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise UserError(
            f"output_dir: {parent} has {free / 1e9:.1f} GB free, expected {needed / 1e9:.1f} GB for the weights"
        )
