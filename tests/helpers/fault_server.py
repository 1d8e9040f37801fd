"""Whole commands in processes of their own, hurt from within at a moment that is told by what they have written so far.

Each is forked from a process that has imported everything (`preloaded.py`), so that it costs no import. A moment is the
number of a change to the files of its directory, and perhaps a while after it: on a slow machine as on a fast one that
is the same place in the command's work.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from drawn_figures import plain_figure
from hurt import SECONDS, wait_until

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TERM": "dumb", "COLUMNS": "100", "TOKENIZERS_PARALLELISM": "false"}
# The events of the interpreter by which files change; of "open" those that may write.
CHANGES = frozenset({"open", "os.mkdir", "os.remove", "os.rename", "os.rmdir"})


@dataclass(frozen=True)
class Moment:
    """When a command is sent a signal."""

    signal: int
    change: int
    """Number of the change to its files, from 1, right before which it happens."""
    delay: float = 0.0
    """Seconds after that."""
    again: float | None = None
    """Seconds until the same signal comes once more; None: never."""


@dataclass(frozen=True)
class End:
    """How a command ended."""

    code: int | None
    """Exit code, or the negative number of the signal that killed it; None if it had to be given up."""
    errors: str
    """What it wrote to stderr."""
    changes: int
    """How often it changed a file of its directory; 0 where it was killed."""
    struck: bool
    """Whether the moment came, before it was over."""


@dataclass
class Running:
    """A command that runs."""

    process: multiprocessing.process.BaseProcess
    reports: Connection
    streams: list[Connection]
    _texts: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._texts = [b""] * len(self.streams)
        self._readers = [threading.Thread(target=self._read, args=(number,)) for number in range(len(self.streams))]
        for reader in self._readers:
            reader.start()

    def _read(self, number: int) -> None:
        while part := os.read(self.streams[number].fileno(), 65536):
            self._texts[number] += part

    def wait_until_stopped(self) -> bool:
        """Wait until the command has stopped itself, and tell whether it did so before it ended."""
        stat = Path(f"/proc/{self.process.pid}/stat")

        def state() -> str:
            try:
                return stat.read_text().rpartition(")")[2].split()[0]
            except OSError:
                return "gone"

        wait_until(lambda: state() in ("T", "Z", "gone") or not self.process.is_alive())
        return state() == "T"

    def go_on(self) -> None:
        """Let a command that has stopped itself go on."""
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGCONT)

    def wait(self) -> End:
        """Wait for the end."""
        self.process.join(SECONDS)
        code = self.process.exitcode
        if code is None:
            self.process.kill()
            self.process.join()
        try:
            changes, struck = self.reports.recv()
        except EOFError:  # it was killed
            changes, struck = 0, True
        for reader in self._readers:
            reader.join()
        return End(code, self._texts[1].decode(errors="replace"), changes, struck)


class Server:
    """Starts commands."""

    def __init__(self, environment: dict[str, str]) -> None:
        """`environment` is what the commands find there beside the usual."""
        os.environ |= ENVIRONMENT
        self.environment = ENVIRONMENT | environment
        self.context = multiprocessing.get_context("forkserver")

    def start(
        self,
        words: list[str],
        place: Path,
        *,
        limit: int | None = None,
        moment: Moment | None = None,
        miniature: Callable[[], None] | None = None,
    ) -> Running:
        """Start `rlif` with these words.

        Args:
            words: of its command line.
            place: the directory that it is started in.
            limit: bytes beyond which no file can grow, as on a full disk.
            moment: of a signal.
            miniature: called before the command, to make what it does smaller.
        """
        reports, *streams = (self.context.Pipe(duplex=False) for _ in range(3))
        ends = [reports[1], *(writer for _, writer in streams)]
        process = self.context.Process(
            target=run_command, args=(words, place, ends, self.environment, limit, moment, miniature)
        )
        process.start()
        for end in ends:
            end.close()
        return Running(process, reports[0], [reader for reader, _ in streams])

    def run(self, words: list[str], place: Path, **more: object) -> End:
        """Start `rlif` with these words, and wait for its end."""
        return self.start(words, place, **more).wait()  # type: ignore[arg-type]


def run_command(
    words: list[str],
    place: Path,
    ends: list[Connection],
    environment: dict[str, str],
    limit: int | None,
    moment: Moment | None,
    miniature: Callable[[], None] | None,
) -> None:
    """Run a command, in a process that is there for nothing else, and end with its exit code."""
    import torch

    from rlif import cli
    from rlif.plots import style

    gc.freeze()  # what the server has imported stays: to look through it for garbage would be half of the work
    report, *streams = ends
    for descriptor, stream in enumerate(streams, start=1):
        os.dup2(stream.fileno(), descriptor)
        stream.close()
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    os.chdir(place)
    os.environ |= environment
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    style.Figure = plain_figure  # what it shows is nobody's concern here
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if miniature is not None:
        miniature()
    watch = Watch(place, moment)
    sys.addaudithook(watch)
    sys.argv = ["rlif", *words]
    try:
        cli.program()
    finally:
        watch.over = True
        report.send((watch.count, watch.struck))


class Watch:
    """Counts the changes to the files of a directory, and sends this process a signal at one of them."""

    def __init__(self, place: Path, moment: Moment | None) -> None:
        self.place, self.moment, self.process = f"{place}/", moment, os.getpid()
        self.count, self.over, self.struck = 0, False, False

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        """Be told of an event, as an audit hook."""
        if event not in CHANGES or self.over or os.getpid() != self.process or not self._is_change(event, arguments):
            return
        self.count += 1
        if self.moment is None or self.count != self.moment.change:
            return
        if self.moment.delay == 0 and self.moment.again is None:
            self.struck = True
            os.kill(self.process, self.moment.signal)
        else:
            threading.Thread(target=self._later, args=(self.moment,), daemon=True).start()

    def _is_change(self, event: str, arguments: tuple[object, ...]) -> bool:
        path = arguments[0]
        if not isinstance(path, str | bytes | os.PathLike):
            return False
        if event == "open" and not int(arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR):  # type: ignore[call-overload]
            return False
        name = os.fsdecode(path)
        return name.startswith(self.place) or not name.startswith("/")

    def _later(self, moment: Moment) -> None:
        for wait in (moment.delay, moment.again):
            if wait is not None:
                time.sleep(wait)
                if not self.over:
                    self.struck = True
                    os.kill(self.process, moment.signal)
