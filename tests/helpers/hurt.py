"""Commands that are run as a user runs them, and hurt: by signals, and by a second one in the same directory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "TERM": "dumb", "COLUMNS": "100"}
SECONDS = 120.0  # until what is waited for is given up: far more than any of it takes


def start(words: Sequence[str], **more: object) -> subprocess.Popen[str]:
    """Start `rlif` with these words; output and errors are pipes unless `more` says otherwise."""
    pipes: dict[str, object] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, "-m", "rlif", *words]
    return subprocess.Popen(command, env=ENVIRONMENT, text=True, **(pipes | more))  # type: ignore[call-overload]


@contextmanager
def running(words: Sequence[str], until: Callable[[], bool], **more: object) -> Iterator[subprocess.Popen[str]]:
    """Start a command and wait until it is where it should be hurt; at the end of the context it is killed."""
    process = start(words, **more)
    try:
        wait_until(lambda: process.poll() is not None or until())
        assert process.poll() is None, process.communicate()
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_until(holds: Callable[[], bool]) -> None:
    """Look again and again until it holds."""
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)
