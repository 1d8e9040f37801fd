"""What a command is doing, how far it is and how long it will take: never half a minute without a word.

Whoever works says so by `doing`, which costs next to nothing and prints nothing by itself. A command line that is
`speaking` prints a line once something has taken longer than a second, and again after each half a minute in which
nobody else printed one, from a thread of its own: a model that loads, or one long forward, cannot keep it silent.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from rlif.digits import duration

# What takes less is not worth a line.
FIRST_SECONDS = 1.0
# The longest time without one.
LOG_SECONDS = 30.0
# Between two looks at the clock.
LOOK_SECONDS = 0.25

_works: list[Work] = []  # those that go on, each within the one before it
_displays = 0  # of rich that move on the screen, and would be broken by lines
_told = -math.inf  # when the last line was printed


class Work:
    """Something that goes on."""

    def __init__(self, what: str, unit: str, total: int | None, done: int, show: Callable[[int], str]) -> None:
        self.what, self.unit, self.total, self.first, self.done, self.show = what, unit, total, done, done, show
        self.begun = time.monotonic()

    def move(self, count: int = 0, *, completed: int | None = None) -> None:
        """Count that many more as done, or that many in all."""
        self.done = self.done + count if completed is None else completed

    def words(self, now: float) -> str:
        """Return what it is, and how far: with the time that is left where the total is known, else that spent."""
        spent = now - self.begun
        if self.total is None:
            return self.what if spent < FIRST_SECONDS else f"{self.what} ({duration(spent)})"
        text = f"{self.what}: {self.show(self.done)} of {self.show(self.total)}{self.unit and f' {self.unit}'}"
        if self.first < self.done < self.total:
            left = spent / (self.done - self.first) * (self.total - self.done)
            text += f" ({duration(left)} left)"
        return text


@contextmanager
def doing(
    what: str, unit: str = "", total: int | None = None, done: int = 0, *, show: Callable[[int], str] = str
) -> Iterator[Work]:
    """Within, this is what is being done.

    Args:
        what: in a few words.
        unit: of the count.
        total: of the count; None where nobody knows.
        done: of it already.
        show: writes the counts.
    """
    work = Work(what, unit, total, done, show)
    _works.append(work)
    try:
        yield work
    finally:
        _works.remove(work)


def inside(work: Work, now: float) -> str:
    """Return what is being done within a work, in one line; empty if nothing is known of it."""
    works = list(_works)
    within = works[works.index(work) + 1 :] if work in works else []
    return "; ".join(each.words(now) for each in within)


def told() -> None:
    """Say that a line was printed just now, so that the next one need not come soon."""
    global _told
    _told = time.monotonic()


def silent_for(now: float) -> float:
    """Return the seconds since the last line."""
    return now - _told


@contextmanager
def display() -> Iterator[None]:
    """Within, something moves on the screen, and no lines are printed."""
    global _displays
    _displays += 1
    try:
        yield
    finally:
        _displays -= 1
        told()


def due(now: float, command: str, begun: float) -> str | None:
    """Return the line that a command should print, if it should.

    Args:
        now: by the monotonic clock.
        command: that is running.
        begun: when it began.
    """
    works = list(_works)
    if _displays:
        return None
    is_news = bool(works) and _told < works[0].begun <= now - FIRST_SECONDS
    if not is_news and now - max(_told, begun) < LOG_SECONDS:
        return None
    text = "; ".join(work.words(now) for work in works) or f"still working ({duration(now - begun)})"
    return f"{command}: {text}"


@contextmanager
def speaking(command: str, say: Callable[[str], None]) -> Iterator[None]:
    """Within, `say` gets a line whenever one is due, from a thread.

    Args:
        command: that every line begins with.
        say: prints a line; an OSError that it raises is the end of the lines.
    """
    end, begun = threading.Event(), time.monotonic()

    def speak() -> None:
        with suppress(OSError):  # nobody reads any more, which whoever prints results will find out
            while not end.wait(LOOK_SECONDS):
                if (line := due(time.monotonic(), command, begun)) is not None:
                    told()
                    say(line)

    thread = threading.Thread(target=speak, daemon=True, name="what rlif is doing")
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()
