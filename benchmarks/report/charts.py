"""Charts of the suite `ops`, one message each (time, share of the floor, memory, error), and of `recipe`, `explain` and
`kl-estimators`.

A chart carries the checksum of the results file that it was drawn from, so that a stale one is known without comparing
pictures, which differ between versions of matplotlib.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, UnidentifiedImageError

from benchmarks.ops.floor import floor_milliseconds
from benchmarks.ops.problems import BASELINE, TOLERANCE
from benchmarks.report.explain import explain_chart
from benchmarks.report.kl_estimators import kl_estimators_chart
from benchmarks.report.lines import LOGITS, lines
from benchmarks.report.ops import shape
from benchmarks.report.recipe import recipe_chart
from rlif.plots.style import BLACK, BLUE, GREY, ORANGE, VERMILLION, new_figure, tidy_axes

Entry = dict[str, Any]
# What the figures of a chart are: part of its caption.
SHOWN = {
    "time": "medians, shade: 20th to 80th percentile",
    "head-time": "medians, shade: 20th to 80th percentile",
    "floor": "medians",
    "memory": "of one forward and backward",
    "error": "largest over all tokens",
    "recipe": "means over seeds, thin: each seed",
    "kl-estimators": "means over disjoint groups of completions",
    "explain": "means over seeds, thin: each seed",
}
OP_NAMES = {
    "token_stats": "log-probability, entropy and self-certainty of logits",
    "linear_token_stats": "the same three through the head",
    "grpo_loss": "GRPO loss of logits",
    "linear_grpo_loss": "GRPO loss through the head",
}


def figures(source: Path, directory: Path) -> dict[Path, Figure]:
    """The charts of a results file, by their places; empty for suites that have none, and for too few figures."""
    results = json.loads(source.read_text(encoding="utf-8"))
    machine = source.name.split(f"-{results['date']}-")[0]
    found = {}
    for name, chart in CHARTS.get(results["suite"], {}).items():
        figure = chart(results)
        if figure is not None:
            figure.supxlabel(caption(results, source, name), fontsize=7.5, color="#555555", x=0.01, ha="left")
            found[directory / "charts" / f"{machine}-{name}.png"] = figure
    return found


def checksum(source: Path) -> str:
    return f"{source.name} {hashlib.sha256(source.read_bytes()).hexdigest()}"


def draw_charts(source: Path, directory: Path) -> None:
    """Draw the charts of a results file anew."""
    for path, figure in figures(source, directory).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110, metadata={"Description": checksum(source)})


def stale_charts(source: Path, directory: Path) -> list[str]:
    """The charts of a results file that are not there, or that were drawn from something else."""
    found = []
    for path in figures(source, directory):
        try:
            with Image.open(path) as image:
                drawn_from = image.info.get("Description")
        except (OSError, UnidentifiedImageError):
            drawn_from = None
        if drawn_from != checksum(source):
            found.append(path.name)
    return found


def caption(results: dict[str, Any], source: Path, name: str) -> str:
    machine = results["machine"]
    processor = machine["gpu"] or f"{machine['processor']}, {machine['cores']} cores"
    size = "" if results["size"] == "full" else f" A {results['size']} run: coarse."
    torch = f"torch {machine['versions']['torch']}"
    return f"{processor}, {torch}; {SHOWN[name]}. {source.name}.{size}"


def panels(count: int, columns: int, title: str, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with that many panels, row by row, under a title that says what is to be seen."""
    rows = -(-count // columns)
    figure = new_figure(11, height * rows)
    figure.suptitle(title, fontsize=13, x=0.01, ha="left", fontweight="bold")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for each in axes:
        tidy_axes(each, grid=False)
        each.tick_params(labelsize=8)
    for each in axes[count:]:
        each.set_visible(False)
    return figure, axes[:count]


def colour(implementation: Entry, name: str) -> str:
    if implementation["package"] == "rlif":
        return VERMILLION if name == "rlif" else ORANGE
    return GREY if implementation["package"] == "torch" else BLUE


def colours(entries: list[Entry]) -> dict[str, str]:
    return {name: colour(each, name) for entry in entries for name, each in entry["implementations"].items()}


def measured_entries(results: dict[str, Any], op: str, kind: str = "time") -> list[Entry]:
    """The op's entries that have a figure, in the order of measuring."""
    entries = (each for each in results["entries"] if each["kind"] == kind and each["op"] == op)
    return [entry for entry in entries if (_right(entry) if kind == "time" else entry["implementations"])]


def _right(entry: Entry) -> dict[str, Entry]:
    return {name: each for name, each in entry["implementations"].items() if "forward_backward" in each}


def sweep(entries: list[dict[str, Any]], along: str) -> list[dict[str, Any]]:
    """Return the most entries that differ in `along` ("rows" or "columns") alone, ascending."""
    other = "rows" if along == "columns" else "columns"
    groups: dict[tuple[Any, ...], dict[int, dict[str, Any]]] = {}
    for entry in entries:
        groups.setdefault((entry[other], entry["hidden_size"], entry["dtype"]), {})[entry[along]] = entry
    longest = max(groups.values(), key=len, default={})
    return [longest[value] for value in sorted(longest)]


def time_lines(axes: Axes, entries: list[Entry], along: str) -> None:
    points: dict[str, list[tuple[float, float, float, float]]] = {}
    for entry in entries:
        for name, each in _right(entry).items():
            spread = each["forward_backward"]
            points.setdefault(name, []).append((entry[along], spread["median"], spread["low"], spread["high"]))
    lines(axes, points, colours(entries), "milliseconds, forward + backward")
    first = entries[0]
    rest = shape(first).split(", ", 1)[1]
    of_columns, of_rows = f"vocabulary V, of {first['rows']} tokens", f"tokens N, V = {first['columns']}"
    label = f"{of_columns if along == 'columns' else of_rows}, {rest}"
    axes.set_xlabel(label, fontsize=9)


# --- the charts


def compared(entry: dict[str, Any]) -> str:
    """How our op's time compares with eager's and with the fastest of the others, in words."""
    medians = {name: each["forward_backward"]["median"] for name, each in _right(entry).items()}
    others = {
        name: medians[name]
        for name, each in entry["implementations"].items()
        if name in medians and each["package"] != "rlif"
    }
    if "rlif" not in medians or not others:
        return "rlif and others"
    fastest = min(others, key=lambda name: others[name])
    ratio = others[fastest] / medians["rlif"]
    best = (
        f"{ratio:.1f}x as fast as {fastest}, the next"
        if ratio >= 1
        else f"at {ratio:.0%} of the speed of {fastest}, the fastest"
    )
    if BASELINE not in others or fastest == BASELINE:
        return f"rlif is {best}"
    return f"rlif is {others[BASELINE] / medians['rlif']:.1f}x as fast as eager and {best}"


def time_chart(op: str) -> Callable[[dict[str, Any]], Figure | None]:
    """Time against V and against N."""

    def figure(results: dict[str, Any]) -> Figure | None:
        entries = measured_entries(results, op)
        shown = {along: found for along in ("columns", "rows") if len(found := sweep(entries, along)) > 1}
        if not shown:
            return None
        name = OP_NAMES[op]
        title = f"{name[0].upper()}{name[1:]}:\n{compared(entries[0])} ({shape(entries[0])})"
        drawn, axes = panels(len(shown), len(shown), title, 5.2)
        for each, (along, found) in zip(axes, shown.items(), strict=True):
            time_lines(each, found, along)
        return drawn

    return figure


def floor_chart(results: dict[str, Any]) -> Figure | None:
    """Bars: the floor, measured beside it, over the time of each, for one shape of each op."""
    entries = [timed[0] for op in OP_NAMES if (timed := measured_entries(results, op))]
    if not entries:
        return None
    shares: dict[str, dict[str, float]] = {}
    for entry in entries:
        floor = floor_milliseconds(entry, "forward_backward") or 0.0
        shares[entry["op"]] = {name: floor / each["forward_backward"]["median"] for name, each in _right(entry).items()}
    ours = [found["rlif"] for found in shares.values() if "rlif" in found]
    title = (
        "Beside torch's own read and copy of the bytes, or its bare matrix products:\n"
        f"rlif at {min(ours, default=0):.0%} to {max(ours, default=0):.0%} of their speed"
    )
    drawn, axes = panels(len(entries), 2, title, 3.6)
    for each, entry in zip(axes, entries, strict=True):
        bars = dict(sorted(shares[entry["op"]].items(), key=lambda item: item[1]))
        each.barh(list(bars), list(bars.values()), color=[colours([entry])[name] for name in bars], height=0.7)
        for position, value in enumerate(bars.values()):
            each.text(value, position, f" {value:.0%}", va="center", fontsize=8.5)
        each.set_xlim(0, max(1.0, *bars.values()) * 1.08)
        each.axvline(1, color=BLACK, linewidth=0.8)
        each.set_xticks([0, 0.5, 1], ["0", "50%", "the floor"])
        work = "read + write, of the same bytes" if entry["op"] == "grpo_loss" else "2 reads + write, of the same bytes"
        work = "3 bare matrix products" if entry["hidden_size"] else work
        each.set_title(f"{OP_NAMES[entry['op']]}\n{shape(entry)}; floor: {work}", fontsize=9, loc="left")
    return drawn


def memory_chart(results: dict[str, Any]) -> Figure | None:
    """Extra memory against the size of all logits."""
    found = {op: measured_entries(results, op, "memory") for op in ("token_stats", "linear_grpo_loss")}
    found = {op: by_size(each) for op, each in found.items() if each}
    if max(map(len, found.values()), default=0) < 2:
        return None
    shares = [
        entries[-1]["implementations"]["rlif"]["forward_backward_bytes"] / entries[-1]["logits_bytes"]
        for entries in found.values()
        if "rlif" in entries[-1]["implementations"]
    ]
    said = [f"{share:.0%}" if share >= 0.01 else "under 1%" for share in shares]
    title = f"Memory beyond inputs and gradients: rlif {' and '.join(said)} of the logits (largest shapes)"
    drawn, axes = panels(len(found), len(found), title, 5.2)
    for each, (op, entries) in zip(axes, found.items(), strict=True):
        points: dict[str, list[tuple[float, float, float, float]]] = {}
        for entry in entries:
            size = entry["logits_bytes"] / 1e6
            for name, of_one in entry["implementations"].items():
                # Below a megabyte are pages of whatever the interpreter does meanwhile.
                extra = max(of_one["forward_backward_bytes"] / 1e6, 1.0)
                points.setdefault(name, []).append((size, extra, extra, extra))
            points.setdefault(LOGITS, []).append((size, size, size, size))
        unit = "MB at the peak, forward + backward (1: or less)"
        lines(each, points, colours(entries) | {LOGITS: BLACK}, unit)
        each.set_xlabel(f"MB of all logits, N x V, {entries[-1]['dtype']}", fontsize=9)
        each.set_title(OP_NAMES[op], fontsize=9.5, loc="left", pad=14)
    return drawn


def by_size(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sort by the size of all logits, of one dtype: that of the largest, which the axis names."""
    ordered = sorted(entries, key=lambda entry: int(entry["logits_bytes"]))
    return [entry for entry in ordered if entry["dtype"] == ordered[-1]["dtype"]]


def error_chart(results: dict[str, Any]) -> Figure | None:
    """Dots: the largest error of outputs and of gradients, for float32 and bfloat16."""
    chosen = {entry["dtype"]: entry for entry in reversed(measured_entries(results, "token_stats"))}
    entries = [chosen[dtype] for dtype in sorted(chosen, reverse=True)]
    if not entries:
        return None
    ours = (entry["implementations"].get("rlif", {}) for entry in entries)
    worst = max((each["output_error"] for each in ours if each), default=0)
    title = f"Error of {OP_NAMES['token_stats']}\nagainst float64: rlif at most {worst:.0e} in the values"
    drawn, axes = panels(len(entries), len(entries), title, 4.4)
    for each, entry in zip(axes, entries, strict=True):
        by_error = sorted(entry["implementations"].items(), key=lambda item: -item[1]["output_error"])
        for position, (name, of_one) in enumerate(by_error):
            errors = [max(of_one[kind], 1e-9) for kind in ("output_error", "gradient_error")]
            dot = colour(of_one, name)
            each.plot(errors, [position] * 2, color=GREY, linewidth=1, zorder=1)
            each.scatter(errors, [position] * 2, s=50, facecolors=[dot, "white"], edgecolors=dot, zorder=2)
        each.set_xscale("log")
        each.set_xlim(1e-8, 1)
        each.set_yticks(range(len(by_error)), [name for name, _ in by_error], fontsize=9)
        each.set_ylim(-0.6, len(by_error) - 0.4)
        each.grid(axis="x", alpha=0.25)
        limit = TOLERANCE[entry["dtype"]]
        each.axvline(limit, color=BLACK, linewidth=0.8)
        each.text(limit, len(by_error) - 0.4, " wrong", fontsize=8, va="top")
        each.set_xlabel("largest error: filled, of the values; hollow, of the gradient", fontsize=8.5)
        each.set_title(shape(entry), fontsize=9.5, loc="left")
    return drawn


# A chart is None where there are too few figures for it.
# By suite.
CHARTS: dict[str, dict[str, Callable[[dict[str, Any]], Figure | None]]] = {
    "ops": {
        "time": time_chart("token_stats"),
        "head-time": time_chart("linear_grpo_loss"),
        "floor": floor_chart,
        "memory": memory_chart,
        "error": error_chart,
    },
    "recipe": {"recipe": recipe_chart},
    "kl-estimators": {"kl-estimators": kl_estimators_chart},
    "explain": {"explain": explain_chart},
}
