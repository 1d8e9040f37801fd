"""Directories that are whole or not there, and checksums that tell whether they still are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from safetensors import SafetensorError

from rlif.errors import UserError
from rlif.files.checksums import file_sha256
from rlif.files.whole import flush
from rlif.interrupts import without_interrupts

MANIFEST = "manifest.json"
UNFINISHED = "-unfinished"


def write_directory(
    directory: Path, write: Callable[[Path], None], *, argument: str = "output_dir", interruptible: bool = False
) -> None:
    """Make a directory, or replace it, with what `write` puts into an empty one.

    It appears in one rename, when everything in it is on the disk together with checksums of every file. Signals that
    ask to stop wait for that, in the main thread, unless it is `interruptible`: Ctrl-C then leaves what was there
    before. `argument` is what the error names.

    Raises:
        UserError: it cannot be written, for want of space perhaps. What was there before still is.
    """
    unfinished = directory.with_name(f".{directory.name}{UNFINISHED}")
    replaced = directory.with_name(f".{directory.name}-replaced{UNFINISHED}")
    with nullcontext() if interruptible else without_interrupts():
        try:
            _put_back(replaced, directory)
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            write(unfinished)
            _seal(unfinished)
            if directory.exists():
                directory.rename(replaced)
            unfinished.rename(directory)
            flush(directory.parent)
        except Exception as error:
            # A tokenizer says by a plain Exception that the disk is full.
            if not isinstance(error, OSError | SafetensorError) and type(error) is not Exception:
                raise
            raise UserError(f"{argument}: cannot save {directory}: {error}") from error
        finally:
            _put_back(replaced, directory)
            shutil.rmtree(unfinished, ignore_errors=True)


def damage(directory: Path) -> str | None:
    """What is wrong with a directory that `write_directory` made, in a few words; None if nothing is."""
    try:
        manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
        expected: dict[str, str] = manifest["sha256"]
        if not isinstance(expected, dict) or not expected:
            raise TypeError
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return f"{MANIFEST} cannot be read ({type(error).__name__})"
    for name, checksum in expected.items():
        try:
            if file_sha256(directory / name) != checksum:
                return f"{name} has changed since it was written"
        except (OSError, ValueError) as error:  # a name with a null in it is a ValueError
            return f"{name} cannot be read ({getattr(error, 'strerror', error)})"
    return None


def is_whole(directory: Path) -> bool:
    """Tell whether a directory that `write_directory` made is there, and as it was made."""
    return directory.is_dir() and damage(directory) is None


def _put_back(replaced: Path, directory: Path) -> None:
    """Restore what was moved aside for a directory that then did not come; remove it if that did."""
    if replaced.exists() and not directory.exists():
        replaced.rename(directory)
    shutil.rmtree(replaced, ignore_errors=True)


def _seal(directory: Path) -> None:
    # A manifest that was copied with other files is replaced by ours.
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path != directory / MANIFEST)
    manifest = {"sha256": {path.relative_to(directory).as_posix(): file_sha256(path) for path in files}}
    (directory / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    for path in [*files, directory / MANIFEST, directory]:
        flush(path)
