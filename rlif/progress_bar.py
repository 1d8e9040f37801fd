"""The progress bar of every command: title, bar, count, what else there is to say, and the time that is left."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from rlif.terminal import make_console


class Move(Protocol):
    """Moves a bar by a count, or to where it is `completed`; fields are shown by the bar's own columns."""

    def __call__(self, count: int = 0, *, completed: int | None = None, **fields: Any) -> None: ...


def make_bar(
    *columns: ProgressColumn, in_bytes: bool = False, console: Console | None = None, disable: bool = False
) -> Progress:
    """Make rich's progress display with our columns, and others between the count and the time that is left.

    Args:
        columns: further ones.
        in_bytes: whether the count is of bytes.
        console: to show it on; None leaves it to whoever shows it.
        disable: show nothing.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn() if in_bytes else MofNCompleteColumn(),
        *columns,
        TimeRemainingColumn(),
        console=console,
        disable=disable,
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
    """Show how far something is; the function given moves the bar. Without a terminal there is one line at the end.

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
    shown = (TextColumn(unit), *columns) if unit else columns
    console = console or make_console(errors=True)
    with make_bar(*shown, in_bytes=in_bytes, console=console, disable=disable) as progress:
        task = progress.add_task(title, total=total, completed=done, **fields)

        def move(count: int = 0, *, completed: int | None = None, **fields: Any) -> None:
            if completed is None:
                progress.update(task, advance=count, **fields)
            else:
                progress.update(task, completed=completed, **fields)

        yield move
