"""The table and the chart of the suite `kl-estimators`."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from benchmarks.report.markdown import notes, table
from rlif.plots.style import BLUE, GREY, ORANGE, VERMILLION, new_figure, tidy_axes

COLOURS = {"k1": GREY, "k2": BLUE, "k3": ORANGE, "full": VERMILLION}
SHOWN = (1, 8, 64)


def kl_estimators(results: dict[str, Any]) -> str:
    """A row for each estimator: the error of the gradient from a few numbers of completions."""
    rows = []
    for entry in results["entries"]:
        sizes = sorted(map(int, entry["errors"]))
        counts = sorted({size for size in SHOWN if size in sizes} | {sizes[-1]})
        rows.append([f"`{entry['estimator']}`", *(f"{entry['errors'][str(count)]:.2f}" for count in counts)])
    headings = ["estimator", *(f"{count} completion{'s' if count > 1 else ''}" for count in counts)]
    missing = [f"{name}: {reason}" for name, reason in results["missing"].items()]
    told = (
        f"Root mean square of the error over the size of the gradient, of {results['parameters']:,} weights and a "
        f"vocabulary of {results['vocabulary']}, {results['training_steps']} steps from the start, where the "
        f"divergence is {results['divergence']:.3f} nats a token. The gradient is that of "
        f"{results['known_completions']} other completions."
    )
    return "\n\n".join([table(headings, rows), told]) + notes({}, missing, [])


def kl_estimators_chart(results: dict[str, Any]) -> Figure | None:
    """The error against the number of completions, a line for each estimator."""
    if not results["entries"]:
        return None
    figure = new_figure(8, 4.6)
    axes = figure.subplots()
    tidy_axes(axes)
    by_name = {
        entry["estimator"]: {int(size): error for size, error in entry["errors"].items()}
        for entry in results["entries"]
    }
    for name, errors in by_name.items():
        sizes = sorted(errors)
        values = [errors[size] for size in sizes]
        axes.plot(sizes, values, "o-", color=COLOURS[name], linewidth=2, markersize=4, label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.axhline(1, color=GREY, linewidth=0.8, linestyle=":")
    axes.set_xlabel("completions", fontsize=9)
    axes.set_ylabel("error of the gradient, over its size", fontsize=9)
    axes.legend(fontsize=9, frameon=False)
    count = max(size for size in sizes if size <= SHOWN[1])
    ratio = by_name["k3"][count] / by_name["full"][count]
    figure.suptitle(
        f"The penalty's gradient from {count} completions: k3's is off {ratio:.1f} times as far as the exact one's",
        fontsize=11, x=0.01, ha="left", fontweight="bold",
    )  # fmt: skip
    return figure
