"""Times of calls, each in its turn, so that all see the same machine; on a GPU by its own clock."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable

import torch

# A GPU waits so many cycles, about a millisecond, before each call that is timed: in the meantime the host hands over
# all of the call's launches, and what is timed is the device's work and not how fast the host is.
AHEAD_CYCLES = 2_000_000


def in_turn(
    calls: dict[str, Callable[[], object]],
    seconds: float,
    device: str,
    times: dict[str, list[float]],
    prepare: Callable[[str], object] = lambda name: None,
    rounds: tuple[int, int] = (5, 30),
) -> None:
    """Time every call once, then every call again, for about so many seconds: what slows the machine slows all.

    Each round begins with another call, so that none always comes after the same.

    Args:
        calls: by name; each has been called before, and so is warm.
        seconds: for all rounds together. The first round tells how many there is time for, within `rounds`.
        device: "cpu" or "cuda". Caches of a GPU are filled with something else before each call.
        times: milliseconds go here as they are measured, a list for each name, so that an interruption loses none.
        prepare: called, untimed, with the name of what is called next.
    """
    flush = torch.empty(256 << 20, dtype=torch.int8, device=device) if device == "cuda" else None
    started = time.perf_counter()
    least, most = rounds
    done = 0
    while done < least or (done < most and (time.perf_counter() - started) * (done + 1) / done < seconds):
        for name in rotated(calls, done):
            prepare(name)
            times.setdefault(name, []).append(_once(calls[name], flush))
        done += 1


def rotated(names: Iterable[str], turn: int) -> list[str]:
    """Return the names in their order, beginning with another one each turn."""
    names = list(names)
    first = turn % max(1, len(names))
    return names[first:] + names[:first]


def _once(call: Callable[[], object], flush: torch.Tensor | None) -> float:
    if flush is None:
        started = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - started)
    flush.zero_()
    torch.cuda._sleep(AHEAD_CYCLES)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def spread(values: list[float]) -> dict[str, float]:
    """Median, 20th and 80th percentile, and of how many."""
    wanted = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    low, median, high = torch.tensor(values, dtype=torch.float64).quantile(wanted).tolist()
    return {"median": median, "low": low, "high": high, "n": len(values)}


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Return the lower quartile, the median and the upper quartile."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return low, median, high
