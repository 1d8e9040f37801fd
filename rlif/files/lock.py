"""One process at a time in a directory: a lock that the system takes back when its owner ends, however it ends."""

from __future__ import annotations

import os
import re
import socket
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from rlif.errors import UserError

try:
    import fcntl
except ImportError:  # Windows: two processes in one directory are then not told of each other
    fcntl = None  # type: ignore[assignment]

LOCK_FILE = ".lock"
_held: weakref.WeakSet[Lock] = weakref.WeakSet()


class Lock:
    """Keeps a directory to one process, and in it to one piece of work.

    A context manager: within, the directory is ours, from the start if it exists, else from `make` on. The lock is a
    file with the pid and the host of its owner. What excludes others is the system's lock on that file, so that a file
    which a killed process left behind excludes nobody.
    """

    def __init__(
        self,
        directory: Path,
        *,
        argument: str = "output_dir",
        beside: bool = False,
        wait: Callable[[str], None] | None = None,
    ) -> None:
        """Nothing is locked yet.

        Args:
            directory: to lock.
            argument: that named it, for error messages.
            beside: the file is beside the directory, which will appear in one rename, and not in it.
            wait: called with the owner's name before its end is waited for. None: nothing is waited for.
        """
        name = f".{directory.name}{LOCK_FILE}"
        self.directory, self.argument = directory, argument
        self.file = directory.with_name(name) if beside else directory / LOCK_FILE
        self._wait = wait
        self._descriptor: int | None = None
        self._made = False

    def __enter__(self) -> Lock:
        if self.file.parent.is_dir():
            self.take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def make(self, *, exist_ok: bool = True) -> None:
        """Make the directory that the lock is in, and lock it. Of ours that is still empty at the end nothing is left.

        Args:
            exist_ok: whether it may exist already.

        Raises:
            UserError: it cannot be made, or exists and may not, or another process has the lock.
        """
        parent = self.file.parent
        exists = parent.is_dir()
        try:
            parent.mkdir(parents=True, exist_ok=exist_ok)
        except OSError as error:
            if isinstance(error, FileExistsError) and parent.is_dir():
                raise UserError(
                    f"{self.argument}: another process has just made {parent}, expected a new directory"
                ) from error
            raise UserError(f"{self.argument}: cannot make {parent}: {error.strerror}") from error
        self._made = self._made or (parent == self.directory and not exists)
        self.take()

    def take(self) -> None:
        """Lock the directory, if it is not locked by this already; the directory of the file must exist.

        Raises:
            UserError: another process has the lock and is not waited for, or the file cannot be made.
        """
        while self._descriptor is None:
            try:
                descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT, 0o666)
            except OSError as error:
                raise UserError(f"{self.argument}: cannot write to {self.directory}: {error.strerror}") from error
            try:
                self._lock(descriptor)
            except BaseException:
                os.close(descriptor)
                raise
            if _is_at(descriptor, self.file):
                self._descriptor = descriptor
                _held.add(self)
            else:  # its owner removed it before we had the lock: that of a file without a name excludes nobody
                os.close(descriptor)
        with suppress(OSError):  # the disk is full, which whoever writes next will say
            os.ftruncate(self._descriptor, 0)
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            os.write(self._descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())

    def release(self) -> None:
        """Let others in; nothing happens if it is not locked by this."""
        if self._descriptor is not None:
            with suppress(OSError):  # somebody has removed the directory
                is_ours = _is_at(self._descriptor, self.file)
                if fcntl is None:  # Windows, which removes no file that is open
                    self._close()
                if is_ours:
                    self.file.unlink()
                if self._made:
                    self.file.parent.rmdir()  # an error where something is in it
            if self._descriptor is not None:
                self._close()

    def _lock(self, descriptor: int) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = _owner(descriptor)
            if self._wait is None:
                raise UserError(
                    f"{self.argument}: {self.directory} is in use by {owner}; expected one that no other run writes to"
                ) from None
            self._wait(owner)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:  # a file system without locks: better to go on than to refuse it
            return

    def _close(self) -> None:
        assert self._descriptor is not None
        os.close(self._descriptor)
        self._descriptor = None
        _held.discard(self)


def is_locked(file: Path) -> bool:
    """Tell whether a process that lives has the lock of this file."""
    if fcntl is None or not file.exists():
        return False
    with file.open("rb") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
    return False


def _is_at(descriptor: int, path: Path) -> bool:
    """Tell whether the open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _owner(descriptor: int) -> str:
    """Who has the lock, from what it wrote; that may be cut short, or not be there yet."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    text = os.read(descriptor, 200).decode(errors="replace").strip()
    return text if re.fullmatch(r"process \d+ on [\w.-]+", text) else "another process"


def _forget_in_child() -> None:
    """A forked child has the file open too, and would hold the lock when its parent has died."""
    for lock in list(_held):
        lock._close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
