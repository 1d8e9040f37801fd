"""Two figures of how it scales: what was measured, and the thousand GPUs on paper."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from benchmarks.report.charts import checksum

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette: told apart by colour-blind readers too.
OURS, NAIVE = "#0072B2", "#D55E00"
PARTS = {
    "sampling": "#56B4E9",
    "learning": "#0072B2",
    "exchange within nodes": "#E69F00",
    "exchange between nodes": "#D55E00",
}


def files(directory: Path) -> tuple[Path, Path]:
    """Where the two are, in the directory of charts."""
    return directory / "scaling-measured.png", directory / "scaling-paper.png"


def draw(source: Path, directory: Path) -> None:
    """Write both into the directory, with the checksum of the results file that they are drawn from."""
    results = json.loads(source.read_text())
    directory.mkdir(parents=True, exist_ok=True)
    measured_path, paper_path = files(directory)
    machine = f"{results['machine']['cores']}-core CPU, one thread, float32, {results['date']}"
    measured = Figure(figsize=(13, 4.2), layout="constrained")
    time, memory, exchange = measured.subplots(1, 3)
    draw_time(time, results)
    draw_memory(memory, results)
    draw_exchange(exchange, results)
    measured.supxlabel(machine, fontsize=8, color="#555555")
    save(measured, measured_path, source)

    paper = Figure(figsize=(10, 4.2), layout="constrained")
    models = list(dict.fromkeys(row["model"] for row in results["paper"]["rows"]))
    for axes, model in zip(paper.subplots(1, len(models)), models, strict=True):
        draw_paper(axes, [row for row in results["paper"]["rows"] if row["model"] == model], model)
    paper.supxlabel("On paper: H200s in nodes of 8, nothing hidden behind computation. Not measured.", fontsize=8)
    save(paper, paper_path, source)


def draw_time(axes: Axes, results: dict[str, Any]) -> None:
    axes.set_title("Time grows with the tokens, as it must", fontsize=11)
    for implementation, color in (("naive", NAIVE), ("rlif", OURS)):
        for op, style in (("linear_grpo_loss", "-"), ("token_stats", "--")):
            points = against_tokens(results, op, implementation)
            x = [entry["tokens"] for entry in points]
            seconds = [entry["seconds"] for entry in points]
            axes.fill_between(
                x, [1e3 * s["p20"] for s in seconds], [1e3 * s["p80"] for s in seconds], color=color, alpha=0.15
            )
            axes.plot(x, [1e3 * s["median"] for s in seconds], style, color=color, marker="o", markersize=4)
            label(axes, x[-1], 1e3 * seconds[-1]["median"], f"{op}, {implementation}", color)
    axes.set_xlabel(f"tokens, V = {points[0]['vocab_size']}")
    axes.set_ylabel("forward and backward, ms")
    logarithmic(axes, x)
    axes.set_xlim(right=x[-1] * 9)


def against_tokens(results: dict[str, Any], op: str, implementation: str) -> list[dict[str, Any]]:
    """The measurements of an op that differ in their tokens alone, fewest first."""
    entries = [e for e in results["ops"] if e["op"] == op and e["implementation"] == implementation]
    columns = [entry["vocab_size"] for entry in entries]
    middle = max(set(columns), key=columns.count)
    return sorted((e for e in entries if e["vocab_size"] == middle), key=lambda entry: entry["tokens"])


def draw_memory(axes: Axes, results: dict[str, Any]) -> None:
    axes.set_title("Fused, the head's memory does not grow", fontsize=11)
    for implementation, color in (("naive", NAIVE), ("rlif", OURS)):
        points = against_tokens(results, "linear_grpo_loss", implementation)
        x = [4 * point["tokens"] * point["vocab_size"] / 2**20 for point in points]
        y = [point["extra_bytes"] / 2**20 for point in points]
        axes.plot(x, y, color=color, marker="o", markersize=4)
        label(axes, x[-1], y[-1], f"linear_grpo_loss,\n{implementation}", color)
    axes.set_xlabel(f"logits, MiB, V = {points[0]['vocab_size']}")
    axes.set_ylabel("beyond inputs and gradients, MiB")
    logarithmic(axes, x)
    axes.set_xlim(right=x[-1] * 5)


def draw_exchange(axes: Axes, results: dict[str, Any]) -> None:
    axes.set_title("A vocabulary in slices: 88 bytes a token", fontsize=11)
    entries = [entry for entry in results["vocabulary"] if entry["world_size"] > 1]
    x = [entry["world_size"] for entry in entries]
    for op, color, name in (
        ("gathered logits", NAIVE, "logits gathered"),
        ("linear_grpo_loss", OURS, "linear_grpo_loss"),
    ):
        y = [sum(entry["ranks"][0][op]["payload"]["all_gather"]) / entry["tokens"] for entry in entries]
        axes.plot(x, y, color=color, marker="o", markersize=4)
        label(axes, x[-1], y[-1], name, color)
    axes.set_xlabel("processes")
    axes.set_ylabel("bytes a token from each process")
    logarithmic(axes, x)
    axes.set_xlim(right=x[-1] * 2.2)


def draw_paper(axes: Axes, rows: list[dict[str, Any]], model: str) -> None:
    last = rows[-1]
    exchange = (last["exchange within nodes"] + last["exchange between nodes"]) / last["step"]
    axes.set_title(f"{model}, {last['gpus']} GPUs: {exchange:.0%} of a step is exchange", fontsize=11)
    bottom = [0.0] * len(rows)
    for part, color in PARTS.items():
        heights = [row[part] for row in rows]
        axes.bar([str(row["gpus"]) for row in rows], heights, bottom=bottom, color=color, label=part)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    axes.set_xlabel("GPUs")
    axes.set_ylabel("seconds of a step")
    axes.legend(frameon=False, fontsize=8, loc="upper left", ncols=2)
    axes.set_ylim(top=1.3 * max(bottom))
    axes.spines[["top", "right"]].set_visible(False)


def label(axes: Axes, x: float, y: float, text: str, color: str) -> None:
    axes.annotate(text, (x, y), xytext=(6, 0), textcoords="offset points", color=color, va="center", fontsize=8)


def logarithmic(axes: Axes, ticks: list[float]) -> None:
    """Both axes, with the sizes that were measured marked below."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(ticks)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)


def save(figure: Figure, path: Path, source: Path) -> None:
    FigureCanvasAgg(figure).print_png(str(path), metadata={"Description": checksum(source)})
