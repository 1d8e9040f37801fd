"""What calls take of memory: resident (Linux only), as torch counts it to the byte, and in processes of their own."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

RESETS_PEAK = Path("/proc/self/clear_refs")
# What mallopt calls the size from which a block is a mapping of its own.
_M_MMAP_THRESHOLD, _MMAP_THRESHOLD = -3, 1 << 16


# --- bytes


def resident_bytes(field: str) -> int:
    """This process's resident memory: now (VmRSS), or its peak (VmHWM)."""
    with open("/proc/self/status", encoding="utf-8") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


def peak_bytes() -> int:
    """Return the process's peak, libraries included; on a GPU that of torch's allocator."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else resident_bytes("VmHWM")


def rise_of_peak(function: Callable[[], object], device: str = "cpu") -> int:
    """Bytes by which memory rises at most while `function` runs, whatever was allocated and freed earlier.

    On a CPU resident memory, pages and other libraries' blocks included; on a GPU what torch has allocated.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    RESETS_PEAK.write_text("5", encoding="utf-8")  # sets the peak to what is resident now
    before = resident_bytes("VmRSS")
    function()
    return resident_bytes("VmHWM") - before


def map_every_block() -> None:
    """From now on this process gives freed memory back at once.

    Left to itself glibc raises the threshold as blocks are freed, and then keeps memory that the next call finds
    without asking the system: its peak would not show.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD)


def peak_allocated(function: Callable[[], object]) -> int:
    """Bytes that torch's CPU allocator has given out at most, at one time, while `function` runs.

    They are the same on every run and on every machine, however busy it is. What it frees of earlier allocations is
    not seen, so drop old gradients first.
    """
    profiler = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
    with silenced():  # the profiler logs its start and its end
        profiler.start()
    try:
        function()
    finally:
        with silenced():
            profiler.stop()
    held = most = 0
    events: list[Any] = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    for event in sorted((event for event in events if event.name() == "[memory]"), key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


# --- processes


class FreshProcessError(RuntimeError):
    """What went wrong in a process of its own, as `describe_error` puts it."""


def in_fresh_process(function: Callable[..., Any], *arguments: Any, forked: bool = True) -> Any:
    """What the function returns in a process that has done nothing yet; what it prints is lost.

    The process is forked from a server that has imported what they all need and computed nothing, so that a new one
    takes no time and inherits no threads, no caches and no scratch. Function, arguments and result have to be
    picklable. It ends with the process that asked for it, however that ends.

    Args:
        function: to call.
        arguments: of it.
        forked: False for a new process that has imported nothing either, where the server may have imported Triton to
            interpret kernels, which cannot be undone.

    Raises:
        FreshProcessError: it raised (with what, in words) or the process ended without a word, as one does that the
            system kills for want of memory.
    """
    context: ForkServerContext | SpawnContext = multiprocessing.get_context("spawn")
    if forked:
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
    threading.Thread(target=_end_with_parent, daemon=True).start()
    gc.freeze()  # what the server has imported stays, and need not be looked through for garbage again and again
    torch.set_num_threads(threads)
    with silenced():
        try:
            sender.send(("", function(*arguments)))
        except Exception as error:
            sender.send((describe_error(error), None))


def _end_with_parent() -> None:
    """Kill this process when the one that asked for it is gone: a parent that was killed itself cannot do so."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGKILL)


def describe_error(error: BaseException) -> str:
    """Return one line: what kind of error, and the first line of what it says."""
    if isinstance(error, FreshProcessError):
        return str(error)
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0][:200]}" if said else type(error).__name__


@contextmanager
def silenced() -> Iterator[None]:
    """Within, what the process writes to its standard output and error is lost, whichever library writes it."""
    kept = os.dup(1), os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(nowhere, number)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, descriptor in zip((1, 2), kept, strict=True):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.close(nowhere)
