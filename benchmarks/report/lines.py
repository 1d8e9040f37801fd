"""Lines on logarithmic scales with their names at their ends, where a legend would have to be looked up."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator

LOGITS = "the logits themselves"


def lines(
    axes: Axes, points: dict[str, list[tuple[float, float, float, float]]], colours: dict[str, str], unit: str
) -> None:
    """A line for each name through (x, median, low, high), on logarithmic scales, its name at its right end."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    ends = {}
    for name, values in points.items():
        x, median, low, high = zip(*values, strict=True)
        style = ":" if name == LOGITS else "-"
        width = 2.2 if name == "rlif" else 1.3
        axes.plot(x, median, style, color=colours[name], marker="o", markersize=3.5, linewidth=width)
        axes.fill_between(x, low, high, color=colours[name], alpha=0.15, linewidth=0)
        ends[name] = (x[-1], median[-1])
    xs = sorted({value[0] for values in points.values() for value in values})
    axes.set_xticks(xs, [f"{value:,.0f}" for value in xs])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.minorticks_off()
    axes.set_xlim(xs[0] / 1.1, xs[-1] * (xs[-1] / xs[0]) ** 0.75 if len(xs) > 1 else xs[0] * 4)
    axes.yaxis.set_major_formatter(lambda value, position: f"{value:,g}")
    axes.set_ylabel(unit, fontsize=9)
    label_ends(axes, ends, colours)


def label_ends(axes: Axes, ends: dict[str, tuple[float, float]], colours: dict[str, str]) -> None:
    """Names at the ends of lines, moved apart where they would cover each other."""
    axes.set_ylim(*axes.get_ylim())  # as it is: labels do not stretch it
    to_axes = axes.transData + axes.transAxes.inverted()
    ordered = sorted(ends.items(), key=lambda end: end[1][1])
    tips = [(float(x), float(y)) for x, y in (to_axes.transform(end) for _, end in ordered)]
    places = [tip[1] for tip in tips]
    gap = 0.055
    for number in range(1, len(places)):
        places[number] = max(places[number], places[number - 1] + gap)
    for number in reversed(range(len(places))):  # not out of the picture, if that can be had
        places[number] = min(places[number], 1.0 - gap * (len(places) - 1 - number))
    for (name, (_, y)), tip, place in zip(ordered, tips, places, strict=True):
        axes.annotate(
            f"{name}  {number_text(y)}",
            tip,
            xytext=(tip[0] + 0.035, place),
            xycoords="axes fraction",
            textcoords="axes fraction",
            fontsize=8.5,
            color=colours[name],
            fontweight="bold" if name == "rlif" else "normal",
            va="center",
            arrowprops={"arrowstyle": "-", "color": colours[name], "linewidth": 0.5, "relpos": (0, 0.5)},
        )


def number_text(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
