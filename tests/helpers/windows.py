"""What our programs find on Windows as far as Python shows it, for a while, in a process of another system.

Three things are otherwise there: modules and functions that Python does not have, files that cannot be removed or moved
while they are open, and directories that cannot be opened. What others wrote is to be imported before.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rlif.files import lock

MODULES = ("fcntl", "resource", "termios", "pwd", "grp", "triton")
# What a program might use that runs in one process; the standard library has bound for itself what it uses.
MISSING: dict[ModuleType, tuple[str, ...]] = {
    os: (
        *("fork", "getuid", "geteuid", "getgid", "getegid", "killpg", "pread", "pwrite", "sched_getaffinity"),
        *("statvfs", "mkfifo", "O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK"),
    ),
    signal: ("SIGHUP", "SIGQUIT", "SIGKILL", "SIGUSR1", "pthread_sigmask"),  # pytest-timeout needs the timer
}


def pretend_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process look like one on Windows, until the monkeypatch is undone."""
    open_file, fsync = os.open, os.fsync
    sysconfig.get_config_vars()  # of the system that this is

    def opened(path: Any, flags: int, *arguments: Any, **keywords: Any) -> int:
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return open_file(path, flags, *arguments, **keywords)

    def flushed(descriptor: int) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        fsync(descriptor)

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "fsync", flushed)
    for name in ("unlink", "remove", "rename", "replace", "rmdir"):
        monkeypatch.setattr(os, name, refused_while_open(getattr(os, name)))
    monkeypatch.setattr(shutil, "_use_fd_functions", False)
    for name in MODULES:
        monkeypatch.setitem(sys.modules, name, None)
    for module, names in MISSING.items():
        for name in names:
            monkeypatch.delattr(module, name, raising=False)
    monkeypatch.setattr(lock, "fcntl", None)
    monkeypatch.setattr(sys, "platform", "win32")


def refused_while_open(change: Callable[..., None]) -> Callable[..., None]:
    """The change of a name, which fails while this process has that file open, or one in that directory."""

    def checked(*paths: Any, **keywords: Any) -> None:
        for path in paths:  # of a move the new name too: what is open is not replaced
            name = Path(path).absolute()
            name = name.parent.resolve() / name.name
            if any(each == name or name in each.parents for each in open_files()):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        change(*paths, **keywords)

    return checked


def open_files() -> list[Path]:
    """The files that this process has open."""
    found = []
    for descriptor in os.listdir("/dev/fd"):
        try:
            found.append(Path(os.readlink(f"/dev/fd/{descriptor}")))
        except OSError:  # that of the list itself
            continue
    return found
