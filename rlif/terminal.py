"""The door to the terminal: what comes from files and models is shown there, and commands nothing."""

from __future__ import annotations

import sys

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RenderHook, RenderResult
from rich.measure import Measurement
from rich.segment import Segment

from rlif.printable import printable


class Printable:
    """Whatever rich can show, by `printable`."""

    def __init__(self, shown: RenderableType) -> None:
        self.shown = shown

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self.shown, options):
            # Control segments are rich's own: they move the cursor of a live display.
            yield segment if segment.control else Segment(printable(segment.text), segment.style)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, options, self.shown)


class _Door(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [Printable(each) for each in renderables]


def make_console(*, errors: bool = False) -> Console:
    """Make a console of the standard output, or of that of errors, through which everything goes by `printable`."""
    console = Console(file=sys.stderr if errors else sys.stdout)
    console.push_render_hook(_Door())
    return console
