"""Commands that are run as a user runs them, and hurt: by signals, and by files that somebody has changed."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from rlif import cli
from rlif.files.directories import MANIFEST

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "TERM": "dumb", "COLUMNS": "100"}
SECONDS = 120.0  # until what is waited for is given up: far more than any of it takes


def start(words: Sequence[str], **more: object) -> subprocess.Popen[str]:
    """Start `rlif` with these words; output and errors are pipes unless `more` says otherwise."""
    pipes: dict[str, object] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, "-m", "rlif", *words]
    return subprocess.Popen(command, env=ENVIRONMENT, text=True, **(pipes | more))  # type: ignore[call-overload]


def without_progress(errors: str) -> list[str]:
    """The lines that a command wrote on stderr, less those on what it is doing, which depend on the clock."""
    return [line for line in errors.splitlines() if not re.match(r"rlif [a-z-]+: |rlif: compiling ", line)]


def run_in_process(words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> int | str | None:
    """Run `rlif` with these words in this process, and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["rlif", *words])
    try:
        cli.main()
    except SystemExit as end:
        return end.code
    return 0


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


def rewrite(path: Path, text: str) -> None:
    """Change a file of a directory with checksums, and its checksum with it: only its content can give it away."""
    path.write_text(text)
    manifest = json.loads((path.parent / MANIFEST).read_text())
    assert path.name in manifest["sha256"]
    manifest["sha256"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    (path.parent / MANIFEST).write_text(json.dumps(manifest))


# What may stand where a number, a text or an object belongs.
HOSTILE_VALUES = (None, True, -1, 1.5, 10**30, "x", [], {}, [[0]])


def assert_same(ours: object, theirs: object) -> None:
    """Hold two values of JSON to being the same: tokens and texts to the letter, statistics to rounding.

    Which completions are computed side by side decides the last digits of a float32, and on some processors so does
    where in memory they lie.
    """
    if isinstance(ours, dict) and isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert_same(ours[name], theirs[name])
    elif isinstance(ours, list) and isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_same(one, other)
    elif isinstance(ours, float) and isinstance(theirs, float):
        # Sums of some hundred float32 terms, each rounded to 6e-8 of its size.
        assert math.isclose(ours, theirs, rel_tol=1e-5, abs_tol=1e-6)
    else:
        assert ours == theirs
