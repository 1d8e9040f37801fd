"""How all figures look: one palette, one size of dot, few lines around the data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from rlif.errors import UserError
from rlif.files.whole import written_whole
from rlif.printable import one_line

# Okabe and Ito's palette: told apart by colour-blind readers too.
VERMILLION, BLUE, GREEN, PURPLE, ORANGE, SKY, BLACK = (
    "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000",
)  # fmt: skip
GREY = "#999999"
COLORS = (VERMILLION, BLUE, GREEN, PURPLE, ORANGE, SKY, BLACK)
PANELS_IN_A_ROW = 4
_LINE_STYLES = ("-", "--", ":")


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that many inches, which is drawn without a screen."""
    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path, *, argument: str = "output_dir") -> None:
    """Write a figure in the format that the name of the file ends with.

    Raises:
        UserError: naming `argument`: it cannot be written, or has no ending that matplotlib knows.
    """
    if not path.suffix:  # matplotlib would add one
        raise UserError(f"{argument}: got {str(path)!r}, expected a file whose name ends with .png, .pdf or .svg")
    try:
        with written_whole(path, argument=argument) as unfinished:
            figure.savefig(unfinished)
    except ValueError as error:
        raise UserError(f"{argument}: cannot write to {path}: {error}") from error


def line_style(index: int) -> dict[str, Any]:
    """Colour and line style of the line with that number, from 0; beyond the end of the palette the style changes."""
    repeats, color = divmod(index, len(COLORS))
    return {"color": COLORS[color], "linestyle": _LINE_STYLES[repeats % len(_LINE_STYLES)]}


def tidy_axes(axes: Axes, *, grid: bool = True, right: bool = False) -> None:
    """Give a panel a faint grid, and a frame only where there is an axis; with `right` there is one on the right."""
    if grid:
        axes.grid(alpha=0.25)
    axes.spines[["top"] if right else ["top", "right"]].set_visible(False)


def over_steps(axes: Axes) -> None:
    """Say that a panel goes over the steps of a training, of which there are no halves."""
    axes.set_xlabel("training step")
    axes.xaxis.set_major_locator(MaxNLocator("auto", steps=(1, 2, 5, 10), integer=True, min_n_ticks=1))


def in_percent(axis: Axis) -> None:
    """Label the x or y axis of a panel, on which shares go from 0 to 1, in percent."""
    axis.set_major_formatter(PercentFormatter(1.0))


def verbatim(name: str) -> str:
    """A name from a file, in which matplotlib would read what stands between dollars as mathematics."""
    return one_line(name).replace("$", r"\$")


def legend(figure: Figure, handles: Sequence[Artist], names: Sequence[str], **options: Any) -> None:
    """Name lines beside or above all panels, whatever their names: of one that begins with _ matplotlib makes none."""
    made = figure.legend(handles, [f"line {number}" for number in range(len(handles))], frameon=False, **options)
    for text, name in zip(made.get_texts(), names, strict=True):
        text.set_text(verbatim(name))


def legend_above(figure: Figure, axes: Axes) -> None:
    """Name the lines of a panel, which stand for the same in all panels, in one row above them."""
    handles, labels = axes.get_legend_handles_labels()
    legend(figure, handles, labels, loc="outside upper left", ncols=len(labels))
