"""The bar of a stage."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def bar(title: str, unit: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Show on stderr how far a stage is; the function given moves the bar. Without a terminal: one line at the end."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(file=sys.stderr), speed_estimate_period=math.inf) as progress:
        task = progress.add_task(title, total=total, completed=done)
        yield lambda count: progress.update(task, advance=count)
