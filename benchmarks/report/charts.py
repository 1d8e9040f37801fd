"""Charts of the suite `ops`, one message each: time, share of the floor, memory, error.

A chart carries the checksum of the results file that it was drawn from, so that a stale one is known without comparing
pictures, which differ between versions of matplotlib.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.ops.floor import floor_milliseconds
from benchmarks.ops.problems import TOLERANCE
from benchmarks.report.lines import LOGITS, lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OURS, OURS_TOO, PEERS, PLAIN = "#c1272d", "#e58a8d", "#2b5c8a", "#7f7f7f"
BASELINE = "eager"
# What the figures of a chart are: part of its caption.
SHOWN = {
    "time": "medians, shade: 20th to 80th percentile",
    "head-time": "medians, shade: 20th to 80th percentile",
    "floor": "medians",
    "memory": "of one forward and backward",
    "error": "largest over all tokens",
}
OP_NAMES = {
    "token_stats": "log-probability, entropy and self-certainty of logits",
    "linear_token_stats": "the same three through the head",
    "grpo_loss": "GRPO loss of logits",
    "linear_grpo_loss": "GRPO loss through the head",
}


def files(source: Path, directory: Path) -> dict[str, Path]:
    """Where the charts of a results file are, by name; empty for suites that have none, and for too few figures."""
    results = json.loads(source.read_text())
    if results["suite"] != "ops":
        return {}
    machine = source.name.split(f"-{results['date']}-")[0]
    names = [name for name, (enough, _) in CHARTS.items() if enough(results)]
    return {name: directory / "charts" / f"{machine}-{name}.png" for name in names}


def checksum(source: Path) -> str:
    return f"{source.name} {hashlib.sha256(source.read_bytes()).hexdigest()}"


def draw(source: Path, directory: Path) -> list[Path]:
    """Draw the charts of a results file anew."""
    results = json.loads(source.read_text())
    paths = files(source, directory)
    for name, path in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        figure = CHARTS[name][1](results)
        figure.text(0.01, 0.012, caption(results, source, name), fontsize=7.5, color="#555555", va="bottom")
        figure.savefig(path, dpi=110, metadata={"Description": checksum(source)})
    return list(paths.values())


def stale(source: Path, directory: Path) -> list[str]:
    """The charts of a results file that are not there, or that were drawn from something else."""
    from PIL import Image, UnidentifiedImageError

    found = []
    for path in files(source, directory).values():
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


def new_figure(rows: int, columns: int, title: str, height: float) -> tuple[Figure, list[Axes]]:
    """Axes row by row, without frames, under a title that says what is to be seen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, height))
    FigureCanvasAgg(figure)
    axes = [figure.add_subplot(rows, columns, number + 1) for number in range(rows * columns)]
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
        each.tick_params(labelsize=8)
    figure.suptitle(title, fontsize=13, x=0.01, ha="left", fontweight="bold")
    return figure, axes


def colour(implementation: dict[str, Any], name: str) -> str:
    if implementation["package"] == "rlif":
        return OURS if name == "rlif" else OURS_TOO
    return PLAIN if implementation["package"] == "torch" else PEERS


def timed(results: dict[str, Any], op: str) -> list[dict[str, Any]]:
    """The op's entries that were measured to the end, in the order of measuring."""
    return [
        entry
        for entry in results["entries"]
        if entry["kind"] == "time" and entry["op"] == op and entry["implementations"] and _right(entry)
    ]


def _right(entry: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: each for name, each in entry["implementations"].items() if "forward_backward" in each}


def sweep(entries: list[dict[str, Any]], along: str) -> list[dict[str, Any]]:
    """The most entries that differ in `along` ("rows" or "columns") alone, ascending."""
    other = "rows" if along == "columns" else "columns"
    groups: dict[tuple[Any, ...], dict[int, dict[str, Any]]] = {}
    for entry in entries:
        groups.setdefault((entry[other], entry["hidden_size"], entry["dtype"]), {})[entry[along]] = entry
    longest = max(groups.values(), key=len, default={})
    return [longest[value] for value in sorted(longest)]


def time_lines(axes: Axes, entries: list[dict[str, Any]], along: str) -> None:
    points: dict[str, list[tuple[float, float, float, float]]] = {}
    colours: dict[str, str] = {}
    for entry in entries:
        for name, each in _right(entry).items():
            spread = each["forward_backward"]
            points.setdefault(name, []).append((entry[along], spread["median"], spread["low"], spread["high"]))
            colours[name] = colour(each, name)
    lines(axes, points, colours, "milliseconds, forward + backward")
    first = entries[0]
    hidden = f", H = {first['hidden_size']}" if first["hidden_size"] else ""
    if along == "columns":
        axes.set_xlabel(f"vocabulary V, of {first['rows']} tokens{hidden}, {first['dtype']}", fontsize=9)
    else:
        axes.set_xlabel(f"tokens N, V = {first['columns']}{hidden}, {first['dtype']}", fontsize=9)


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


def time_chart(op: str) -> tuple[Callable[[dict[str, Any]], bool], Callable[[dict[str, Any]], Figure]]:
    """Time against V and against N."""

    def enough(results: dict[str, Any]) -> bool:
        entries = timed(results, op)
        return max(len(sweep(entries, along)) for along in ("columns", "rows")) > 1

    def figure(results: dict[str, Any]) -> Figure:
        entries = timed(results, op)
        shown = {along: found for along in ("columns", "rows") if len(found := sweep(entries, along)) > 1}
        name, first = OP_NAMES[op], entries[0]
        hidden = f", H = {first['hidden_size']}" if first["hidden_size"] else ""
        title = f"{name[0].upper()}{name[1:]}:\n{compared(first)} ({first['rows']} x {first['columns']}{hidden})"
        drawn, axes = new_figure(1, len(shown), title, 5.2)
        for each, (along, found) in zip(axes, shown.items(), strict=True):
            time_lines(each, found, along)
        drawn.subplots_adjust(left=0.06, right=0.99, top=0.85, bottom=0.15, wspace=0.16)
        return drawn

    return enough, figure


def floor_chart(results: dict[str, Any]) -> Figure:
    """Bars: the floor, measured beside it, over the time of each, for one shape of each op."""
    entries = [timed(results, op)[0] for op in OP_NAMES if timed(results, op)]
    shares = {}
    for entry in entries:
        floor = floor_milliseconds(entry, "forward_backward") or 0.0
        shares[entry["op"]] = {name: floor / each["forward_backward"]["median"] for name, each in _right(entry).items()}
    ours = [found["rlif"] for found in shares.values() if "rlif" in found]
    title = (
        "Beside torch's own read and copy of the bytes, or its bare matrix products:\n"
        f"rlif at {min(ours, default=0):.0%} to {max(ours, default=0):.0%} of their speed"
    )
    drawn, axes = new_figure((len(entries) + 1) // 2, 2, title, 3.6 * ((len(entries) + 1) // 2))
    for each, entry in zip(axes, entries, strict=False):
        found = dict(sorted(shares[entry["op"]].items(), key=lambda item: item[1]))
        colours = [colour(entry["implementations"][name], name) for name in found]
        each.barh(list(found), list(found.values()), color=colours, height=0.7)
        for position, value in enumerate(found.values()):
            each.text(value, position, f" {value:.0%}", va="center", fontsize=8.5)
        each.set_xlim(0, max(1.0, *found.values()) * 1.08)
        each.axvline(1, color="black", linewidth=0.8)
        each.set_xticks([0, 0.5, 1], ["0", "50%", "the floor"])
        work = "read + write, of the same bytes" if entry["op"] == "grpo_loss" else "2 reads + write, of the same bytes"
        work = "3 bare matrix products" if entry["hidden_size"] else work
        hidden = f", H = {entry['hidden_size']}" if entry["hidden_size"] else ""
        each.set_title(
            f"{OP_NAMES[entry['op']]}\n{entry['rows']} x {entry['columns']}{hidden}, {entry['dtype']}; floor: {work}",
            fontsize=9, loc="left",
        )  # fmt: skip
    for each in axes[len(entries) :]:
        each.set_visible(False)
    drawn.subplots_adjust(left=0.16, right=0.98, top=0.86, bottom=0.1, wspace=0.42, hspace=0.45)
    return drawn


def memories(results: dict[str, Any], op: str) -> list[dict[str, Any]]:
    found = [
        each for each in results["entries"] if each["kind"] == "memory" and each["op"] == op and each["implementations"]
    ]
    return sorted(found, key=lambda entry: entry["logits_bytes"])


def memory_chart(results: dict[str, Any]) -> Figure:
    """Extra memory against the size of all logits."""
    ops = [op for op in ("token_stats", "linear_grpo_loss") if memories(results, op)]
    last = {op: memories(results, op)[-1] for op in ops}
    shares = [
        entry["implementations"]["rlif"]["forward_backward_bytes"] / entry["logits_bytes"]
        for entry in last.values()
        if "rlif" in entry["implementations"]
    ]
    said = [f"{share:.0%}" if share >= 0.01 else "under 1%" for share in shares]
    title = f"Memory beyond inputs and gradients: rlif {' and '.join(said)} of the logits (largest shapes)"
    drawn, axes = new_figure(1, len(ops), title, 5.2)
    for each, op in zip(axes, ops, strict=True):
        points: dict[str, list[tuple[float, float, float, float]]] = {}
        colours: dict[str, str] = {}
        for entry in memories(results, op):
            for name, measured in entry["implementations"].items():
                # Below a megabyte are pages of whatever the interpreter does meanwhile.
                extra = max(measured["forward_backward_bytes"] / 1e6, 1.0)
                points.setdefault(name, []).append((entry["logits_bytes"] / 1e6, extra, extra, extra))
                colours[name] = colour(measured, name)
        sizes = [entry["logits_bytes"] / 1e6 for entry in memories(results, op)]
        points[LOGITS], colours[LOGITS] = [(size, size, size, size) for size in sizes], "black"
        lines(each, points, colours, "MB at the peak, forward + backward (1: or less)")
        each.set_xlabel(f"MB of all logits, N x V, {last[op]['dtype']}", fontsize=9)
        each.set_title(OP_NAMES[op], fontsize=9.5, loc="left", pad=14)
    drawn.subplots_adjust(left=0.06, right=0.99, top=0.86, bottom=0.15, wspace=0.16)
    return drawn


def error_chart(results: dict[str, Any]) -> Figure:
    """Dots: the largest error of outputs and of gradients, for float32 and bfloat16."""
    chosen = {entry["dtype"]: entry for entry in reversed(timed(results, "token_stats"))}
    entries = [chosen[dtype] for dtype in sorted(chosen, reverse=True)]
    worst = [
        entry["implementations"]["rlif"]["output_error"] for entry in entries if "rlif" in entry["implementations"]
    ]
    title = (
        f"Error of {OP_NAMES['token_stats']}\nagainst float64: rlif at most {max(worst, default=0):.0e} in the values"
    )
    drawn, axes = new_figure(1, len(entries), title, 4.4)
    for each, entry in zip(axes, entries, strict=True):
        names = sorted(entry["implementations"], key=lambda name: -entry["implementations"][name]["output_error"])
        for position, name in enumerate(names):
            measured = entry["implementations"][name]
            errors = [max(measured[kind], 1e-9) for kind in ("output_error", "gradient_error")]
            each.plot(errors, [position] * 2, color="#cccccc", linewidth=1, zorder=1)
            each.scatter(errors[0], position, s=55, color=colour(measured, name), zorder=2)
            each.scatter(errors[1], position, s=45, facecolors="white", edgecolors=colour(measured, name), zorder=2)
        each.set_xscale("log")
        each.set_xlim(1e-8, 1)
        each.set_yticks(range(len(names)), names, fontsize=9)
        each.set_ylim(-0.6, len(names) - 0.4)
        each.grid(axis="x", color="#eeeeee")
        each.set_axisbelow(True)
        limit = TOLERANCE[entry["dtype"]]
        each.axvline(limit, color="black", linewidth=0.8)
        each.text(limit, len(names) - 0.4, " wrong", fontsize=8, va="top")
        each.set_xlabel("largest error: filled, of the values; hollow, of the gradient", fontsize=8.5)
        each.set_title(f"{entry['dtype']}, {entry['rows']} x {entry['columns']}", fontsize=9.5, loc="left")
    drawn.subplots_adjust(left=0.15, right=0.98, top=0.8, bottom=0.18, wspace=0.5)
    return drawn


CHARTS: dict[str, tuple[Callable[[dict[str, Any]], bool], Callable[[dict[str, Any]], Figure]]] = {
    "time": time_chart("token_stats"),
    "head-time": time_chart("linear_grpo_loss"),
    "floor": (lambda results: any(timed(results, op) for op in OP_NAMES), floor_chart),
    "memory": (
        lambda results: any(len(memories(results, op)) > 1 for op in ("token_stats", "linear_grpo_loss")),
        memory_chart,
    ),
    "error": (lambda results: bool(timed(results, "token_stats")), error_chart),
}
