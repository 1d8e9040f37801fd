"""Compile the C kernels for the machine they run on, once, and load them.

The library is kept in a directory of the user's own, `kernels-UID` in RLIF_CACHE_DIR or the user's cache directory. Its
name is a hash of everything that it was made from: source, compiler, flags, C library, and what the compiler takes the
processor to be able to do (its predefined macros), so that unlike machines may share a home directory. One process of
a machine compiles, for about a second; others wait for it. A checksum beside the library tells a whole one from one
that was cut off, which would end the process that uses it.

Where the kernels cannot be had (no C compiler included) the torch backend serves, several times slower, and one
warning a process says why. Two cases stay silent: RLIF_CPU_KERNELS=0, which switches the kernels off, and Windows,
which they do not know. `python -m rlif_kernels` builds them and says what serves.

RLIF_CPU_LEVEL names another instruction set than this processor's own (a value of the compiler's -march, such as
x86-64-v3): for tests, benchmarks, and unlike machines that are to agree to the bit.
"""

import contextlib
import ctypes
import functools
import hashlib
import importlib.util
import logging
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from rlif_kernels.functional import STATISTICS
from rlif_kernels.rows import RowState

if sys.platform != "win32":
    import fcntl

SOURCES = tuple(
    Path(__file__).with_name(name)
    for name in ("kernels.c", "vectors.h", "threads.h", "call.h", "order.h", "forward.h", "backward.h", "pairs.h")
)
# No -ffast-math: the edge values are infinities and NaN. One word on contraction, or GCC and Clang differ in it.
FLAGS = ("-O2", "-std=gnu11", "-Wno-psabi", "-fno-math-errno", "-ffp-contract=fast", "-shared", "-fPIC", "-pthread")
C_TYPES = {torch.float32: "float", torch.int64: "int64_t"}
# Names that the C code shares with Python, in the order of the tables that hold them.
NAMES = (
    "-DFIELD_POINTERS=" + " ".join(f"{C_TYPES[statistic.dtype]} *{name};" for name, statistic in STATISTICS.items()),
    "-DSTATE_PARTS=" + ", ".join(f"STATE_{name.upper()}" for name in RowState._fields),
)
# Tried in turn: Clang on Arm knows the machine's processor by the second name only.
MACHINE_FLAGS = (("-march=native",), ("-mcpu=native",), ())
# What /proc/cpuinfo says of processors that can run a level of x86-64, as far as the kernels make use of it.
LEVELS = {
    "x86-64-v2": {"sse4_2", "ssse3", "popcnt"},
    "x86-64-v3": {"avx2", "fma", "f16c", "bmi2", "movbe"},
    "x86-64-v4": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
}

COMPILER_SECONDS = 600  # of a machine so busy that a second of work takes minutes
RETRY_SECONDS = 3600  # after a failure, lest every process of a job try again
SHOWN_LINES = 5


class BuildError(Exception):
    """Why there is no library."""


class Found(NamedTuple):
    """What came of looking for the library."""

    library: ctypes.CDLL | None
    reason: str
    """Where it is and what it was compiled for; or why there is none."""
    silent: bool = False
    """Whether nobody needs to be told that there is none."""


def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None where they cannot be had; decided once per process."""
    return found().library


@functools.cache
def found() -> Found:
    """What came of looking for the library in this process, which tells the user once if there is none."""
    result = find()
    if result.library is None and not result.silent:
        # A copy of this package under another name is none that Python could run.
        again = "`python -m rlif_kernels` tries again; " if importlib.util.find_spec("rlif_kernels") else ""
        warnings.warn(
            f"the torch backend serves on this CPU, several times slower than the C kernels would: {result.reason}. "
            f"{again}RLIF_CPU_KERNELS=0 does without the kernels and this warning",
            RuntimeWarning,
            stacklevel=2,
        )
    return result


def find(again: bool = False) -> Found:
    """Load the library, after compiling it if need be; `again`: also where that failed a short while ago."""
    if os.environ.get("RLIF_CPU_KERNELS") == "0":
        return Found(None, "RLIF_CPU_KERNELS is 0", silent=True)
    if sys.platform == "win32":
        return Found(None, "there are no C kernels for Windows", silent=True)
    try:
        command, macros = _compiler()
        path = _directory() / f"{_key(command, macros)}.so"
        loaded = _load(path) or _compile_alone(command, path, again)
    except (
        BuildError,
        OSError,
        RuntimeError,
        subprocess.SubprocessError,
    ) as error:  # RuntimeError: a user without a home
        return Found(None, str(error))
    loaded.rlif_instructions.restype = ctypes.c_char_p
    return Found(loaded, f"{loaded.rlif_instructions().decode()}, {shlex.join(command)}, {path}")


def runnable_levels() -> list[str]:
    """Those of `LEVELS` that this processor can run; none where that is not known."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    flags = set(next((line.partition(":")[2] for line in lines if line.startswith("flags")), "").split())
    levels: list[str] = []
    for level, needed in LEVELS.items():
        if not needed <= flags:
            break
        levels.append(level)
    return levels


def _compiler() -> tuple[list[str], bytes]:
    """The command that compiles for this machine, less its files, and the macros that say what the machine is."""
    named = shlex.split(os.environ.get("CC") or "cc")
    candidates = (named, ["gcc"], ["clang"])
    compiler = next((words for words in candidates if words and shutil.which(words[0])), None)
    if compiler is None:
        raise BuildError("there is no C compiler: install gcc or clang, or name one in CC")
    level = os.environ.get("RLIF_CPU_LEVEL")
    if level in LEVELS and level not in runnable_levels():
        raise BuildError(f"RLIF_CPU_LEVEL is {level}, which this processor cannot run")
    failure: BuildError | None = None
    for machine in ((f"-march={level}",),) if level else MACHINE_FLAGS:
        command = [*compiler, *FLAGS, *NAMES, *machine]
        try:
            return command, _run([*command, "-dM", "-E", "-x", "c", os.devnull])
        except BuildError as error:
            failure = error
    assert failure is not None
    raise failure


def _run(command: list[str]) -> bytes:
    try:
        return subprocess.run(command, check=True, capture_output=True, timeout=COMPILER_SECONDS).stdout
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"`{shlex.join(command)}` was not done after {COMPILER_SECONDS} seconds") from error
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines()[-SHOWN_LINES:]
        said = "".join(f"\n  {line}" for line in lines) or " and said nothing"
        raise BuildError(f"`{shlex.join(command)}` failed with status {error.returncode}:{said}\n") from error


def _key(command: list[str], macros: bytes) -> str:
    parts = (*(source.read_bytes() for source in SOURCES), macros)
    names = repr((command, platform.machine(), platform.libc_ver())).encode()
    return hashlib.sha256(b"\0".join((*parts, names))).hexdigest()[:16]


# ---------------------------------------------------------------- the cache


def _directory() -> Path:
    """Made if it is not there. Others must not be able to put a library into it: what is loaded is run."""
    if os.environ.get("RLIF_CACHE_DIR"):
        cache = Path(os.environ["RLIF_CACHE_DIR"])
    elif os.environ.get("XDG_CACHE_HOME"):
        cache = Path(os.environ["XDG_CACHE_HOME"]) / "rlif"
    else:
        cache = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "rlif"
    # Absolute: a name without a slash would be looked for in the system's library path.
    directory = cache.absolute() / f"kernels-{os.geteuid()}"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise BuildError(f"cannot make {directory} ({error.strerror}): name a directory in RLIF_CACHE_DIR") from error
    _check_own(directory)
    return directory


def _check_own(path: Path) -> None:
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        raise BuildError(f"{path} is a symbolic link; expected what it leads to")
    if status.st_uid != os.geteuid():
        raise BuildError(f"{path} belongs to user {status.st_uid}; expected {os.geteuid()}, who would run it")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise BuildError(f"others may write to {path}: chmod go-w it, or remove it if you do not know who did")


def _load(path: Path) -> ctypes.CDLL | None:
    """None where there is no library, or not a whole one."""
    checksum = path.with_suffix(".sha256")
    try:
        _check_own(path)
        _check_own(checksum)
        if hashlib.sha256(path.read_bytes()).hexdigest() != checksum.read_text():
            return None
    except FileNotFoundError:
        return None
    return ctypes.CDLL(str(path))


def _compile_alone(command: list[str], path: Path, again: bool) -> ctypes.CDLL:
    """Compile, unless another process has done so in the meantime, or has just failed to."""
    failed = path.with_suffix(".failed")
    with _lock(path.with_suffix(".lock")):
        loaded = _load(path)
        if loaded is not None:
            return loaded
        if not again and failed.exists() and time.time() - failed.stat().st_mtime < RETRY_SECONDS:
            raise BuildError(failed.read_text())
        try:
            _compile(command, path)
        except BuildError as error:
            failed.write_text(str(error))
            raise
        failed.unlink(missing_ok=True)
    loaded = _load(path)
    if loaded is None:
        raise BuildError(f"{path} is not what was just written to it")
    return loaded


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Held by one process of the machine at a time, and let go of when it ends, however it ends."""
    deadline = time.monotonic() + COMPILER_SECONDS
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise BuildError(f"another process has held {path} for {COMPILER_SECONDS} seconds") from None
                time.sleep(0.05)
            except OSError:  # a file system without locks: each process compiles, and the last one's library stays
                break
        yield
    finally:
        os.close(descriptor)


def _compile(command: list[str], path: Path) -> None:
    # Under another name first: a process that finds the library must find a whole one, also after a loss of power.
    with tempfile.TemporaryDirectory(dir=path.parent) as directory:
        logging.getLogger(__name__).info("compiling the C kernels, once on this machine")
        unfinished = Path(directory) / path.name
        _run([*command, str(SOURCES[0]), "-o", str(unfinished), "-lm"])
        unfinished.chmod(0o700)
        checksum = unfinished.with_suffix(".sha256")
        checksum.touch(mode=0o600)
        checksum.write_text(hashlib.sha256(unfinished.read_bytes()).hexdigest())
        for file in (unfinished, checksum):
            with file.open("rb+") as opened:
                os.fsync(opened.fileno())
            file.replace(path.parent / file.name)
