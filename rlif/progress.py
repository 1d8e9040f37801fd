"""What a person sees while a run goes on: a live line in a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress


class Progress(Protocol):
    """Told of the start, of every row of metrics and of the end of a run."""

    def start(self, title: str, max_steps: int) -> None:
        """A run of that many steps begins."""

    def report(self, row: Mapping[str, float]) -> None:
        """A step is done; step 0 is the evaluation before the first update."""

    def stop(self) -> None:
        """The run is over, finished or not."""


class SilentProgress:
    """Shows nothing."""

    def start(self, title: str, max_steps: int) -> None:
        """See `Progress`."""

    def report(self, row: Mapping[str, float]) -> None:
        """See `Progress`."""

    def stop(self) -> None:
        """See `Progress`."""


class PlainProgress:
    """One line of text a step, for logs."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def start(self, title: str, max_steps: int) -> None:
        """Remember the title, which every line repeats."""
        self.title, self.max_steps, self.started = title, max_steps, time.monotonic()

    def report(self, row: Mapping[str, float]) -> None:
        """Print the step."""
        step, training, evaluation = int(row["step"]), describe(row), describe(row, "eval/")
        parts = [f"{self.title} step {step}/{self.max_steps}:"]
        if training:
            parts.append(training)
        if evaluation:
            parts.append(f"[eval: {evaluation}]")
        if 0 < step < self.max_steps:
            seconds_a_step = (time.monotonic() - self.started) / step
            parts.append(f"({seconds_a_step * (self.max_steps - step):.0f} s left)")
        self.console.print(" ".join(parts), markup=False, highlight=False, soft_wrap=True)

    def stop(self) -> None:
        """See `Progress`."""


class LiveProgress:
    """A bar with the latest metrics beside it; every evaluation stays on the screen as a line above."""

    def __init__(self, console: Console) -> None:
        self.bar = RichProgress(
            BarColumn(bar_width=10),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[metrics]}", markup=False),
            console=console,
        )

    def start(self, title: str, max_steps: int) -> None:
        """Print the title and show the bar."""
        self.bar.console.print(f"{title}: {max_steps} steps", markup=False, highlight=False)
        self.bar.start()
        self.task = self.bar.add_task(title, total=max_steps, metrics="")

    def report(self, row: Mapping[str, float]) -> None:
        """Move the bar."""
        evaluation = describe(row, "eval/")
        if evaluation:
            line = f"eval at step {int(row['step'])}: {evaluation}"
            self.bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        self.bar.update(self.task, completed=int(row["step"]), metrics=describe(row))

    def stop(self) -> None:
        """Leave the bar where it is."""
        self.bar.stop()


def default_progress() -> Progress:
    """On stderr: live in a terminal, plain lines where there is none."""
    console = Console(file=sys.stderr)
    return LiveProgress(console) if console.is_terminal else PlainProgress(console)


def describe(row: Mapping[str, float], prefix: str = "") -> str:
    """The metrics that a person follows, those whose names have the prefix, in a few words."""
    formats = {
        "reward": "reward {:.3f}",
        "accuracy": "accuracy {:.3f}",
        "entropy": "entropy {:.3f}",
        "completion_length": "length {:.0f}",
    }
    if prefix == "eval/":  # in training it would make the line wider than a terminal
        formats["base_nll"] = "base NLL {:.3f}"
    if not prefix and row.get("skipped_updates"):
        formats["skipped_updates"] = "SKIPPED {:.0f} updates (not finite)"
    return " ".join(form.format(row[prefix + name]) for name, form in formats.items() if prefix + name in row)
