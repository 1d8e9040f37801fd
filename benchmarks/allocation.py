"""What torch allocates on a CPU, to the byte: the same on every run and on every machine, however busy it is.

Resident memory (`benchmarks.memory`) also has what other libraries take, and the operating system's pages; this has
neither, and so can be compared with a model of it, or with last week's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.profiler import ProfilerActivity, profile


def peak_allocated(function: Callable[[], object]) -> int:
    """Bytes that torch's CPU allocator has given out at most, at one time, while `function` runs.

    What it frees of earlier allocations is not seen, so drop old gradients first.
    """
    held = most = 0
    events = profiled(function, profile_memory=True)
    for event in sorted((event for event in events if event.name() == "[memory]"), key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def profiled(function: Callable[[], object], **options: Any) -> list[Any]:
    """What torch's profiler, with these options, records on the CPU while `function` runs."""
    profiler = profile(activities=[ProfilerActivity.CPU], **options)
    with no_messages():
        profiler.start()
    try:
        function()
    finally:
        with no_messages():
            profiler.stop()
    events: list[Any] = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    return events


@contextmanager
def no_messages() -> Iterator[None]:
    """Within, what the process writes to its standard error is lost: the profiler logs its start and its end there."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
