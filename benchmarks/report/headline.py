"""The README's one table: a few figures, ours beside the best of the others, from the files of five suites."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.report.markdown import table
from benchmarks.report.ops import all_shapes, memory_of, shape

HEADLINE_SUITES = ("ops", "loop", "real-step", "trl-step", "self-feedback")


def headline(newest: Callable[[str], Path], page: Path) -> str:
    """What stands between the markers of the table `headline`.

    Args:
        newest: gives the newest results file of a suite.
        page: that the table stands on; links are relative to it.
    """
    files = {suite: newest(suite) for suite in HEADLINE_SUITES}
    results = {suite: json.loads(path.read_text()) for suite, path in files.items()}
    loop, real, steps, pairs = (results[suite]["implementations"] for suite in HEADLINE_SUITES[1:])
    ours, stock = (steps[name]["seconds"]["step"] for name in ("RLIFTrainer", "TRL"))
    rows = [
        *_op(results["ops"], "token_stats", "rlif"),
        *_op(results["ops"], "linear_grpo_loss", "rlif, 64 MiB tiles"),
        _rate("GRPO on self-certainty, tokens a second", loop, "tokens_per_second", "{:.0f}"),
        _peak(loop),
        _rate(f"the same, {real['rlif']['model']}, tokens a second", real, "tokens_per_second", "{:.0f}"),
        _peak(real),
        _row("a step of TRL's trainer, as `RLIFTrainer`", ours, "stock", stock, "{:.1f} s"),
        _rate("DPO, pairs a second", pairs, "pairs_per_second", "{:.1f}"),
    ]
    shown = table(["measured", "rlif", "best of the others", "ratio"], rows)
    machine = results["ops"]["machine"]
    versions = machine["versions"]
    where = (
        f"{machine['cores']} cores of {machine['gpu'] or machine['processor']}, float32, torch {versions['torch']}, "
        f"trl {versions['trl']}."
    )
    links = [f"[`{path.name}`]({Path(os.path.relpath(path, page.parent)).as_posix()})" for path in files.values()]
    return f"{shown}\n\n{all_shapes(results['ops'])}\n\n{where} From {', '.join(links[:-1])} and {links[-1]}."


def _row(label: str, ours: float, name: str, theirs: float, form: str) -> list[str]:
    """Ours and another's; of times the ratio says how many times as fast ours is, of sizes how much of theirs it is."""
    size = form.endswith("B")
    ratio = f"{ours / theirs:.2f}x" if size else f"{theirs / ours:.1f}x"
    return [label, form.format(ours), f"{name}: {form.format(theirs)}", ratio]


def _rate(label: str, entries: dict[str, Any], key: str, form: str) -> list[str]:
    ours, theirs = entries["rlif"][key], entries["TRL"][key]
    return [label, form.format(ours), f"TRL: {form.format(theirs)}", f"{ours / theirs:.1f}x"]


def _peak(entries: dict[str, Any]) -> list[str]:
    ours, theirs = (entries[name]["peak_bytes"] / 1e9 for name in ("rlif", "TRL"))
    return _row("its peak memory", ours, "TRL", theirs, "{:.1f} GB")


def _op(results: dict[str, Any], op: str, ours: str) -> list[list[str]]:
    """Time and memory of forward and backward of an op, at the first shape that was timed, and the best of others."""
    entry = next(each for each in results["entries"] if each["kind"] == "time" and each["op"] == op)
    timed = {name: each for name, each in entry["implementations"].items() if "forward_backward" in each}
    times = {name: each["forward_backward"]["median"] for name, each in timed.items()}
    sizes = {name: each["forward_backward_bytes"] / 1e6 for name, each in memory_of(entry, results).items()}
    title = f"`{op}`, {shape(entry).removesuffix(', float32')}, forward + backward"
    rows = []
    for label, values, form in (
        (title, times, "{:.3g} ms"),
        ("its memory above inputs and gradients", sizes, "{:.0f} MB"),
    ):
        others = {name: value for name, value in values.items() if entry["implementations"][name]["package"] != "rlif"}
        best = min(others, key=others.__getitem__)
        rows.append(_row(label, values[ours], best, others[best], form))
    return rows
