"""The ops of another commit, called from this process: its kernels run in a process of their own.

Nothing here imports `rlif_kernels` before that process knows where to find it.
"""

from __future__ import annotations

import importlib
import multiprocessing
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.ops.problems import Call


def seconds_of_call(call: Call) -> float:
    """Seconds of one call, forward and backward, with fresh gradients."""
    call.problem.clear_gradients()
    started = time.perf_counter()
    call.forward_backward()
    return time.perf_counter() - started


class Base:
    """The process, as seen from here."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def prepare(self, *arguments: Any) -> None:
        """Take an op and its problem, as `gate.calls` does."""
        self._ask(arguments)

    def call(self) -> float:
        """Seconds of a call, forward and backward."""
        seconds: float = self._ask(())
        return seconds

    def _ask(self, arguments: tuple[Any, ...]) -> Any:
        try:
            self.connection.send(arguments)
            return self.connection.recv()
        except (EOFError, OSError) as error:
            raise RuntimeError("the process with the base's kernels ended; it has printed why") from error


@contextmanager
def running(kernels: Path) -> Iterator[Base]:
    """The process whose `rlif_kernels` is the one in a folder, while it is needed. Its errors are printed there."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, kernels), daemon=True)
    process.start()
    there.close()
    try:
        yield Base(here)
    finally:
        process.kill()
        process.join()


def _serve(connection: Connection, kernels: Path) -> None:
    sys.path.insert(0, str(kernels))
    gate = importlib.import_module("benchmarks.gates.gate")
    found = Path(importlib.import_module("rlif_kernels").__file__ or "")
    if not found.is_relative_to(kernels):
        raise RuntimeError(f"imported {found}; expected the kernels of {kernels}")
    while True:
        arguments = connection.recv()
        if arguments:
            _, call = gate.calls(*arguments)
            connection.send(None)
        else:
            connection.send(seconds_of_call(call))
