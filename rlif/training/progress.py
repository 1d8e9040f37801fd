"""Show a person how a run goes on: a live table in a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from rlif.digits import duration, two_digits
from rlif.doing import display, doing, told
from rlif.printable import printable
from rlif.progress_bar import Move, bar, make_bar
from rlif.terminal import Printable, make_console

# Characters of a completion that stay on the screen.
MAX_SHOWN = 400


class Progress(Protocol):
    """Told of what comes before a run, of its start, of every row of metrics and of its end."""

    def before(self, title: str, unit: str, total: int, done: int) -> AbstractContextManager[Move]:
        """Show how far something is that comes before the run begins."""

    def start(self, title: str, max_steps: int, done: int = 0) -> None:
        """A run of that many steps begins, or goes on after those that are done."""

    def report(self, row: Mapping[str, float], completion: str | None = None) -> None:
        """A step is done, step 0 being the evaluation before the first update; perhaps with a completion to show."""

    def warn(self, message: str) -> None:
        """Something that a person should know before the run is over."""

    def stop(self) -> None:
        """The run is over, finished or not."""


class SilentProgress:
    """Shows nothing."""

    def before(self, title: str, unit: str, total: int, done: int) -> AbstractContextManager[Move]:
        """See `Progress`."""
        return bar(title, unit, total, done, disable=True)

    def start(self, title: str, max_steps: int, done: int = 0) -> None:
        """See `Progress`."""

    def report(self, row: Mapping[str, float], completion: str | None = None) -> None:
        """See `Progress`."""

    def warn(self, message: str) -> None:
        """See `Progress`."""

    def stop(self) -> None:
        """See `Progress`."""


class PlainProgress:
    """One line of text a step, for logs."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.run = ExitStack()

    def before(self, title: str, unit: str, total: int, done: int) -> AbstractContextManager[Move]:
        """See `Progress`."""
        return bar(title, unit, total, done, console=self.console)

    def start(self, title: str, max_steps: int, done: int = 0) -> None:
        """Remember the title, which every line repeats."""
        self.title, self.max_steps, self.done, self.started = title, max_steps, done, time.monotonic()
        self.work = self.run.enter_context(doing(title, "steps", max_steps, done))

    def report(self, row: Mapping[str, float], completion: str | None = None) -> None:
        """Print the step."""
        step, training, evaluation = int(row["step"]), describe_metrics(row), describe_metrics(row, "eval/")
        self.work.move(completed=step)
        parts = [f"{self.title} step {step}/{self.max_steps}:"]
        if training:
            parts.append(training)
        if evaluation:
            parts.append(f"[eval: {evaluation}]")
        if self.done < step < self.max_steps:
            seconds_a_step = (time.monotonic() - self.started) / (step - self.done)
            parts.append(f"({duration(seconds_a_step * (self.max_steps - step))} left)")
        self._print(" ".join(parts))

    def warn(self, message: str) -> None:
        """Print it as a line of its own."""
        self._print(f"{self.title} warning: {message}")

    def stop(self) -> None:
        """See `Progress`."""
        self.run.close()

    def _print(self, text: str) -> None:
        told()
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


class LiveProgress:
    """A bar, the latest metrics and a completion; every evaluation stays on the screen as a line above."""

    def __init__(self, console: Console) -> None:
        self.bar = make_bar()
        self.live = Live(self.bar, console=console, refresh_per_second=4)
        self.latest: dict[str, float] = {}
        self.completion = ""
        self.run = ExitStack()

    def before(self, title: str, unit: str, total: int, done: int) -> AbstractContextManager[Move]:
        """See `Progress`."""
        return bar(title, unit, total, done, console=self.live.console)

    def start(self, title: str, max_steps: int, done: int = 0) -> None:
        """Show the bar."""
        self.task = self.bar.add_task(escape(title), total=max_steps, completed=done)
        self.run.enter_context(display())
        self.bar.work = self.run.enter_context(doing(title, "steps", max_steps, done))
        self.live.start()

    def report(self, row: Mapping[str, float], completion: str | None = None) -> None:
        """Move the bar, and renew the numbers that came."""
        evaluation = describe_metrics(row, "eval/")
        if evaluation:
            line = f"eval at step {int(row['step'])}: {evaluation}"
            self.live.console.print(line, markup=False, highlight=False, soft_wrap=True)
        self.latest |= row
        self.completion = completion or self.completion
        self.bar.update(self.task, completed=int(row["step"]))
        shown: list[RenderableType] = [self.bar, metrics_table(self.latest)]
        if self.completion:
            shown.append(Text(printable(self.completion[:MAX_SHOWN]), style="dim"))
        self.live.update(Printable(Group(*shown)), refresh=True)

    def warn(self, message: str) -> None:
        """Leave it on the screen, above the bar."""
        self.live.console.print(f"warning: {message}", style="yellow", markup=False, highlight=False, soft_wrap=True)

    def stop(self) -> None:
        """Leave everything where it is."""
        self.bar.work = None
        self.live.stop()
        self.run.close()


def metrics_table(row: Mapping[str, float]) -> Table:
    """Lay out the metrics that a person follows, those of training beside those of the last evaluation."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for header in ("", "train", "eval"):
        table.add_column(header, justify="left" if header == "" else "right")
    names = {name: name for name in row if name.startswith("reward")}
    names |= {
        "accuracy": "accuracy",
        "verify/balanced_accuracy": "balanced accuracy of verifying",
        "consensus": "agreeing with the start model's majority",
        "entropy": "entropy, nats",
        "self_certainty": "self-certainty, nats",
        "kl": "KL to the start model, nats",
        "base_nll": "base NLL, nats",
        "completion_length": "completion length, tokens",
        "eos_rate": "finished",
        "tokens_per_second": "tokens a second",
        "skipped_updates": "skipped updates",
    }
    for name, label in names.items():
        values = [row.get(prefix + name) for prefix in ("", "eval/")]
        values = [None if value is None or math.isnan(value) else value for value in values]
        if any(value is not None for value in values):
            show = two_digits if name == "tokens_per_second" else "{:.4g}".format
            table.add_row(escape(label), *("" if value is None else show(value) for value in values))
    return table


def default_progress() -> Progress:
    """Report on stderr: live in a terminal, in plain lines where there is none."""
    console = make_console(errors=True)
    return LiveProgress(console) if console.is_terminal else PlainProgress(console)


def describe_metrics(row: Mapping[str, float], prefix: str = "") -> str:
    """Write the metrics that a person follows, of the names with the prefix, in a few words."""
    writers: dict[str, Callable[[float], str]] = {
        "reward": "reward {:.3f}".format,
        "accuracy": "accuracy {:.3f}".format,
        "verify/balanced_accuracy": "verifying {:.3f}".format,
        "consensus": "consensus {:.3f}".format,
        "entropy": "entropy {:.3f}".format,
        "self_certainty": "self-certainty {:.3f}".format,
        "completion_length": "length {:.0f}".format,
        "kl": "KL {:.4f}".format,
        "tokens_per_second": lambda rate: f"{two_digits(rate)} tokens/s",
    }
    if prefix == "eval/":  # in training it would make the line wider than a terminal
        writers["base_nll"] = "base NLL {:.3f}".format
    if not prefix and row.get("skipped_updates"):
        writers["skipped_updates"] = "SKIPPED {:.0f} updates (not finite)".format
    return " ".join(
        write(row[prefix + name])
        for name, write in writers.items()
        if prefix + name in row and not math.isnan(row[prefix + name])
    )
