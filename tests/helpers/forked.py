"""Python in processes of their own that cost no import: forked from one that has imported, and computed nothing."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import time
import traceback
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import IO, NamedTuple

SECONDS = 300.0  # until a process is given up: far more than any takes


class Forked(NamedTuple):
    """A process that runs."""

    process: BaseProcess
    streams: tuple[IO[bytes], IO[bytes]]

    def kill(self) -> None:
        """End it as a machine without memory would."""
        self.process.kill()
        self.process.join()
        for stream in self.streams:
            stream.close()

    def communicate(self) -> tuple[str, str]:
        """Wait for the end, which has to be a good one; returns what it wrote to stdout and stderr."""
        self.process.join(SECONDS)
        self.process.kill()  # one that is over needs it not
        texts = []
        for stream in self.streams:
            stream.seek(0)
            texts.append(stream.read().decode())
            stream.close()
        assert self.process.exitcode == 0, texts[1]
        return texts[0], texts[1]


def start(program: str, cwd: Path | None = None, **environment: str) -> Forked:
    """Run a program with the environment of this process and these names of it."""
    streams = (tempfile.NamedTemporaryFile(), tempfile.NamedTemporaryFile())  # noqa: SIM115
    context = multiprocessing.get_context("forkserver")
    names = [stream.name for stream in streams]
    process = context.Process(target=_run, args=(program, cwd, os.environ | environment, names))
    process.start()
    return Forked(process, streams)


def run(program: str, cwd: Path | None = None, **environment: str) -> tuple[str, str]:
    """Run a program to its end; returns what it wrote to stdout and stderr."""
    return start(program, cwd, **environment).communicate()


def note_and_wait(path: str) -> None:
    """Write the number of this process into a file, and then do nothing for a long time."""
    unfinished = Path(f"{path}.unfinished")
    unfinished.write_text(str(os.getpid()))
    unfinished.rename(path)
    time.sleep(SECONDS)


def _run(program: str, cwd: Path | None, environment: dict[str, str], names: list[str]) -> None:
    for descriptor, name in enumerate(names, start=1):
        file = os.open(name, os.O_WRONLY | os.O_APPEND)
        os.dup2(file, descriptor)
        os.close(file)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ |= environment
    if cwd is not None:
        os.chdir(cwd)
    code = 0
    try:
        exec(program, {"__name__": "__main__"})
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # nothing of the server's to put in order
