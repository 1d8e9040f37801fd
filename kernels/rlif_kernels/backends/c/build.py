"""Compile the C kernels for the machine they run on, once, and load them.

The library is kept in the user's cache directory (or RLIF_CACHE_DIR), named by a hash of everything that it was made
from: source, flags, compiler and processor. Where there is no working C compiler, or RLIF_CPU_KERNELS=0, `library`
returns None and the torch backend serves instead.
"""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("kernels.c")
# No -ffast-math: the edge values are infinities and NaN.
FLAGS = ("-O3", "-std=gnu11", "-fno-math-errno", "-shared", "-fPIC")
# Tried in turn: Clang on Arm knows the machine's processor by the second name only.
MACHINE_FLAGS = (("-march=native",), ("-mcpu=native",), ())

logger = logging.getLogger(__name__)


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None where they cannot be had; decided once per process."""
    if os.environ.get("RLIF_CPU_KERNELS") == "0" or sys.platform == "win32":
        return None
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        logger.debug("no C compiler found: the torch backend serves on the CPU")
        return None
    try:
        path = _cache_dir() / f"cpu-token-stats-{_key(compiler)}.so"
        if not path.exists():
            _compile(compiler, path)
        return ctypes.CDLL(str(path))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:  # RuntimeError: a user without a home
        logger.debug("the C kernels cannot be built, the torch backend serves on the CPU: %s", error)
        return None


def _compile(compiler: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    failure: subprocess.CalledProcessError | None = None
    for machine in MACHINE_FLAGS:
        # Under another name first: a process that finds the library must find a whole one.
        with tempfile.TemporaryDirectory(dir=path.parent) as directory:
            unfinished = Path(directory) / path.name
            command = [compiler, *FLAGS, *machine, str(SOURCE), "-o", str(unfinished), "-lm"]
            try:
                subprocess.run(command, check=True, capture_output=True, timeout=120)
            except subprocess.CalledProcessError as error:
                failure = error
                continue
            unfinished.replace(path)
            return
    assert failure is not None
    raise failure


def _key(compiler: str) -> str:
    version = subprocess.run([compiler, "--version"], check=True, capture_output=True, timeout=60).stdout
    parts = (SOURCE.read_bytes(), version, repr((FLAGS, platform.machine(), _processor())).encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _processor() -> str:
    """What -march=native depends on: a cache may be shared by machines of different kinds."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _cache_dir() -> Path:
    if "RLIF_CACHE_DIR" in os.environ:
        return Path(os.environ["RLIF_CACHE_DIR"])
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]) / "rlif"
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "rlif"
