"""Files that are whole or not there: a reader finds what was there before, or all that is there now."""

from __future__ import annotations

import errno
import glob
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlif.errors import UserError

UNFINISHED = ".unfinished-"


@contextmanager
def written_whole(path: Path, *, argument: str = "output_dir") -> Iterator[Path]:
    """Within, the file is to be written under the name given; it takes its place in one rename when it is on the disk.

    Args:
        path: of the file, in a directory that exists.
        argument: that named it, for error messages.

    Raises:
        UserError: it cannot be written, for want of space perhaps; what was there before still is.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if path.exists() and not path.is_file():  # /dev/stdout, a pipe: nothing takes their place
            yield path
            return
        path = path.resolve()  # of a link, what it leads to
        _remove_left_over(path)
        # Each process has its own, whose ending says what is in it: of two the last one wins, with a whole file.
        unfinished = path.with_name(f"{UNFINISHED}{os.getpid()}-{path.name}")
        try:
            yield unfinished
            flush(unfinished)
            unfinished.replace(path)
            flush(path.parent)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{argument}: cannot write to {path}: {error.strerror or error}") from error


def _remove_left_over(path: Path) -> None:
    """Remove what processes that were killed while they wrote this file have left beside it."""
    for each in path.parent.glob(f"{UNFINISHED}*-{glob.escape(path.name)}"):
        owner = each.name.removeprefix(UNFINISHED).partition("-")[0]
        if owner.isdecimal() and not _lives(int(owner)):
            each.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    if sys.platform == "win32":  # where the same call would end the process
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it lives, and is somebody else's
        return True
    return True


def write_text(path: Path, text: str, *, argument: str = "output_dir") -> None:
    """Write a file in UTF-8, or replace it; see `written_whole`."""
    with written_whole(path, argument=argument) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def flush(path: Path) -> None:
    """Wait until a file, or the list of names in a directory, is on the disk; Windows sees to the names itself."""
    if sys.platform == "win32":  # which flushes what was opened to be written to, and opens no directory
        if path.is_dir():
            return
        descriptor = os.open(path, os.O_RDWR)
    else:
        descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
