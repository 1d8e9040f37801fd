"""Line charts as SVG: they take the colours of the page, light or dark, and its width, and show values on hover."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from rlif.printable import one_line

WIDTH, HEIGHT = 360, 210
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 34
# Points of a line that are drawn at most, the others being averaged; and at most marked, so that they can be hovered.
MAX_POINTS, MAX_MARKED = 300, 60
# The page has as many colours; beyond them lines are dashed.
COLORS = 7


@dataclass(frozen=True)
class Line:
    """One line: a number at each step, where it is finite."""

    name: str
    steps: Sequence[float]
    values: Sequence[float]
    color: int = 0


@dataclass(frozen=True)
class Chart:
    """One panel."""

    title: str
    lines: list[Line]
    note: str = ""
    """Below the title."""
    percent: bool = False
    """Whether the values are shares."""
    marks: list[tuple[float, str]] = field(default_factory=list)
    """Steps at which something is to be seen, and what."""

    def svg(self) -> str:
        """Draw it; of no finite number nothing is drawn."""
        lines = [_finite(line) for line in self.lines]
        lines = [line for line in lines if line.steps]
        if not lines:
            return ""
        return _draw(self, [_averaged(line) for line in lines])

    def words(self) -> str:
        """Say what is to be seen, for those who cannot see it: where each line begins, ends, and lies between."""
        parts = []
        for line in map(_finite, self.lines):
            if not line.steps:
                continue
            show = self._shown
            parts.append(
                f"{one_line(line.name)}: {show(line.values[0])} at step {line.steps[0]:g}, {show(line.values[-1])} at "
                f"step {line.steps[-1]:g}, between {show(min(line.values))} and {show(max(line.values))}"
            )
        return f"{self.title}{self.note and ', '}{self.note}. {'; '.join(parts)}."

    def _shown(self, value: float) -> str:
        return f"{value:.1%}" if self.percent else f"{value:.4g}"


def _draw(chart: Chart, lines: Sequence[Line]) -> str:
    values = [value for line in lines for value in line.values]
    steps = [step for line in lines for step in line.steps]
    ticks = _share_ticks(min(values), max(values)) if chart.percent else nice_ticks(min(values), max(values))
    low, high = min(min(values), *ticks), max(max(values), *ticks)
    first, last = min(steps), max(steps)

    def x(step: float) -> float:
        share = (step - first) / (last - first) if last > first else 0.5
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def y(value: float) -> float:
        share = (value - low) / (high - low) if high > low else 0.5
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(chart.words())}">']
    labels = [f"{100 * tick:g}%" for tick in ticks] if chart.percent else list(map(_short, ticks))
    for tick, label in zip(ticks, labels, strict=True):
        parts.append(f'<path class="grid" d="M{LEFT} {y(tick)}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y(tick) + 4}" text-anchor="end">{label}</text>')
    for tick in [each for each in nice_ticks(first, last, whole=True) if first <= each <= last]:
        parts.append(f'<text x="{x(tick)}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{tick:g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="axis" x="{middle}" y="{HEIGHT - 3}" text-anchor="middle">training step</text>')
    for step, name in chart.marks:
        if first <= step <= last:
            path = f'<path class="guard" d="M{x(step)} {TOP}V{HEIGHT - BOTTOM}"/>'
            parts.append(f"<g>{path}<title>{escape(one_line(name))}</title></g>")
    for line in lines:
        parts.append(_line(chart, line, [(x(a), y(b)) for a, b in zip(line.steps, line.values, strict=True)]))
    return "".join(parts) + "</svg>"


def _line(chart: Chart, line: Line, places: Sequence[tuple[float, float]]) -> str:
    """A line, and a circle at each of its points where they are few enough to be told apart."""
    repeats, color = divmod(line.color, COLORS)
    dash = f' stroke-dasharray="{4 * repeats} 3"' if repeats else ""
    path = "M" + "L".join(f"{a} {b}" for a, b in places)
    parts = [f'<g class="line line-{color}"><path d="{path}"{dash}/>']
    marked = len(places) <= MAX_MARKED
    for place, ((a, b), step, value) in enumerate(zip(places, line.steps, line.values, strict=True)):
        if marked or place in (0, len(places) - 1):
            title = f"{one_line(line.name)}, step {step:g}: {chart._shown(value)}"
            parts.append(f'<circle cx="{a}" cy="{b}" r="3"><title>{escape(title)}</title></circle>')
    return "".join(parts) + "</g>"


def nice_ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Return 2 to 7 round numbers that span from at most `low` to at least `high`; of a span of nothing some around it.

    Args:
        low: the least value.
        high: the greatest.
        whole: steps of training, which are whole numbers.
    """
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        around = abs(low) * 0.1 or 1.0
        low, high = (low, low + 1) if whole else (low - around, low + around)
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    size = power * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * (1 - 1e-9))
    if whole:
        size = max(1.0, round(size))
    start, end = math.floor(low / size + 1e-9), math.ceil(high / size - 1e-9)
    return [float(f"{number * size:.12g}") for number in range(start, end + 1)]


def _share_ticks(low: float, high: float) -> list[float]:
    """Ticks of shares, none beyond 0 or 1: of five points at least, so that one completion of many is no cliff."""
    low = min(low, max(0.0, high - 0.05))
    ticks = [round(tick, 6) for tick in nice_ticks(low, max(high, min(1.0, low + 0.05)))]
    shares = [tick for tick in ticks if 0 <= tick <= 1]
    return shares if len(shares) > 1 else ticks


def _finite(line: Line) -> Line:
    pairs = [
        (step, value) for step, value in zip(line.steps, line.values, strict=True)
        if math.isfinite(step) and math.isfinite(value) and abs(value) < 1e100
    ]  # fmt: skip
    return Line(line.name, [step for step, _ in pairs], [value for _, value in pairs], line.color)


def _averaged(line: Line) -> Line:
    """The line with no more than `MAX_POINTS` points, each the mean of as many neighbours."""
    size = math.ceil(len(line.steps) / MAX_POINTS)
    if size == 1:
        return line
    parts = [range(start, min(start + size, len(line.steps))) for start in range(0, len(line.steps), size)]
    steps = [sum(line.steps[place] for place in part) / len(part) for part in parts]
    values = [sum(line.values[place] for place in part) / len(part) for part in parts]
    return Line(line.name, steps, values, line.color)


def _short(tick: float) -> str:
    """A tick's label: all digits of so round a number, if there is room for them."""
    text = f"{tick:.12g}"
    return (text if len(text) <= 7 else f"{tick:.3g}").replace("e-0", "e-").replace("e+0", "e")
