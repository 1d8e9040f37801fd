"""The progress bar of every command: title, bar, count, what else there is to say, and the time that is left.

Where there is no terminal there are plain lines: one at the start, one at the end, and one every half a minute.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console, RenderableType
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from rlif.digits import duration
from rlif.doing import LOG_SECONDS, Work, display, doing, inside, silent_for, told
from rlif.terminal import make_console


class Move(Protocol):
    """Moves a bar by a count, or to where it is `completed`; fields are shown by the bar's own columns."""

    def __call__(self, count: int = 0, *, completed: int | None = None, **fields: Any) -> None: ...


class Bar(Progress):
    """Rich's progress display, and under it what is being done within the work that it is of."""

    work: Work | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        """Return the lines to show."""
        yield from super().get_renderables()
        if self.work is not None and (text := inside(self.work, time.monotonic())):
            yield Text(text, style="dim", no_wrap=True, overflow="ellipsis")


def make_bar(*columns: ProgressColumn, in_bytes: bool = False, console: Console | None = None) -> Bar:
    """Make rich's progress display with our columns, and others between the count and the time that is left.

    Args:
        columns: further ones.
        in_bytes: whether the count is of bytes.
        console: to show it on; None leaves it to whoever shows it.
    """
    return Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn() if in_bytes else MofNCompleteColumn(),
        *columns,
        TimeRemainingColumn(),
        console=console,
        speed_estimate_period=math.inf,  # by default, of steps longer than half a minute there is no estimate
    )


@contextmanager
def bar(
    title: str,
    unit: str,
    total: int,
    done: int = 0,
    *,
    columns: tuple[ProgressColumn, ...] = (),
    in_bytes: bool = False,
    console: Console | None = None,
    disable: bool = False,
    **fields: Any,
) -> Iterator[Move]:
    """Show how far something is; the function given moves the bar, or without a terminal prints a line now and then.

    Args:
        title: what is going on.
        unit: of the count; "" shows none.
        total: of the count.
        done: of it already.
        columns: further ones.
        in_bytes: whether the count is of bytes, whose unit is shown anyway.
        console: to show it on; None is stderr.
        disable: show nothing.
        fields: what the further columns show at first.
    """
    console = console or make_console(errors=True)
    with doing(title, unit, total, done, show=decimal if in_bytes else str) as work:
        if disable:
            yield lambda count=0, *, completed=None, **_: work.move(count, completed=completed)
        elif console.is_terminal:
            shown = (TextColumn(unit), *columns) if unit else columns
            with display(), make_bar(*shown, in_bytes=in_bytes, console=console) as progress:
                progress.work = work
                task = progress.add_task(title, total=total, completed=done, **fields)

                def move(count: int = 0, *, completed: int | None = None, **fields: Any) -> None:
                    work.move(count, completed=completed)
                    progress.update(task, completed=work.done, **fields)

                yield move
        else:
            yield from _in_lines(work, console)


def _in_lines(work: Work, console: Console) -> Iterator[Move]:
    """Print how far a work is when it begins, when it ends, and when half a minute has passed without a line."""

    def say(text: str) -> None:
        told()
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    def move(count: int = 0, *, completed: int | None = None, **_: Any) -> None:
        work.move(count, completed=completed)
        now = time.monotonic()
        if silent_for(now) >= LOG_SECONDS and work.done != work.total:
            say(work.words(now))

    say(work.words(work.begun))
    yield move
    if work.first < work.done:
        now = time.monotonic()
        say(f"{work.words(now)} in {duration(now - work.begun)}")
