"""Run a function in a process that has done nothing yet, as peak memory on a CPU has to be measured.

The process is forked from a server that has imported what they all need and computed nothing, so that a new one takes
no time and inherits no threads, no caches and no scratch.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

# What mallopt calls the size from which a block is a mapping of its own. Left to itself glibc raises it as blocks are
# freed, and then keeps memory that the next call finds without asking the system: its peak would not show.
_M_MMAP_THRESHOLD, _MMAP_THRESHOLD = -3, 1 << 16


class FreshProcessError(RuntimeError):
    """What went wrong in a process of its own, as `describe_error` puts it."""


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What the function returns there; both have to be picklable, and so has the result.

    Raises:
        FreshProcessError: it raised (with what, in words) or the process ended without a word, as one does that the
            system kills for want of memory.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.ops.implementations", "rlif_kernels"])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(sender, torch.get_num_threads(), function, arguments))
    process.start()
    sender.close()
    try:
        reason, result = receiver.recv()
        process.join()
    except EOFError:
        process.join()
        reason = f"its process ended with exit code {process.exitcode}, perhaps for want of memory"
    finally:
        process.kill()  # it is still there after Ctrl-C alone
    if reason:
        raise FreshProcessError(reason)
    return result


def _run(sender: Connection, threads: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process
    torch.set_num_threads(threads)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD)
    try:
        sender.send(("", function(*arguments)))
    except Exception as error:
        sender.send((describe_error(error), None))


def describe_error(error: BaseException) -> str:
    """One line: what kind of error, and the first line of what it says."""
    if isinstance(error, FreshProcessError):
        return str(error)
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0][:200]}" if said else type(error).__name__
