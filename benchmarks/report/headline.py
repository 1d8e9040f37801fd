"""The README's one table: a few figures, ours beside the best of the others, from the files of four suites."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.report.markdown import table
from benchmarks.report.tables import memory_of

SUITES = ("ops", "loop", "trl-step", "self-feedback")


def headline(newest: Callable[[str], Path], page: Path) -> str:
    """What stands between the markers of the table `headline`.

    Args:
        newest: gives the newest results file of a suite.
        page: that the table stands on; links are relative to it.
    """
    files = {suite: newest(suite) for suite in SUITES}
    results = {suite: json.loads(path.read_text()) for suite, path in files.items()}
    rows = [
        *_op(results["ops"], "token_stats", "rlif"),
        *_op(results["ops"], "linear_grpo_loss", "rlif, 64 MiB tiles"),
    ]
    loop = results["loop"]["implementations"]
    ours, theirs = (loop[name]["tokens_per_second"] for name in ("rlif", "TRL"))
    rows.append(
        ["GRPO on self-certainty, tokens a second", f"{ours:.0f}", f"TRL: {theirs:.0f}", f"{ours / theirs:.1f}x"]
    )
    ours, theirs = (loop[name]["peak_bytes"] for name in ("rlif", "TRL"))
    rows.append(["its peak memory", _gigabytes(ours), f"TRL: {_gigabytes(theirs)}", f"{ours / theirs:.2f}x"])
    steps = results["trl-step"]["implementations"]
    inside = "TRL with use_fused_token_stats and trl_reward"
    ours, theirs = (steps[name]["seconds"]["step"] for name in (inside, "TRL"))
    rows.append(
        [
            "a step of TRL's trainer, with our parts in it",
            f"{ours:.1f} s",
            f"stock: {theirs:.1f} s",
            f"{theirs / ours:.1f}x",
        ]
    )
    pairs = results["self-feedback"]["implementations"]
    ours, theirs = (pairs[name]["pairs_per_second"] for name in ("rlif", "TRL"))
    rows.append(["DPO, pairs a second", f"{ours:.1f}", f"TRL: {theirs:.1f}", f"{ours / theirs:.1f}x"])
    shown = table(["measured", "rlif", "best of the others", "ratio"], rows)
    machine = results["ops"]["machine"]
    versions = machine["versions"]
    where = (
        f"{machine['cores']} cores of {machine['gpu'] or machine['processor']}, float32, torch {versions['torch']}, "
        f"trl {versions['trl']}."
    )
    links = [f"[`{path.name}`]({Path(os.path.relpath(path, page.parent)).as_posix()})" for path in files.values()]
    return f"{shown}\n\n{where} From {', '.join(links[:-1])} and {links[-1]}."


def _op(results: dict[str, Any], op: str, ours: str) -> list[list[str]]:
    """Time and memory of forward and backward of an op, at the first shape that was timed."""
    entry = next(each for each in results["entries"] if each["kind"] == "time" and each["op"] == op)
    hidden = f", H = {entry['hidden_size']}" if entry["hidden_size"] else ""
    title = f"`{op}`, {entry['rows']} x {entry['columns']}{hidden}, forward + backward"
    times = {
        name: each["forward_backward"]["median"]
        for name, each in entry["implementations"].items()
        if "forward_backward" in each and (name == ours or each["package"] != "rlif")
    }
    sizes = {
        name: each["forward_backward_bytes"]
        for name, each in memory_of(entry, results).items()
        if "forward_backward_bytes" in each and (name == ours or each["package"] != "rlif")
    }
    rows = []
    for label, values, form in (
        (title, times, _milliseconds),
        ("its memory above inputs and gradients", sizes, _megabytes),
    ):
        mine = values.pop(ours)
        other = min(values, key=lambda name, values=values: values[name])
        ratio = f"{values[other] / mine:.1f}x" if form is _milliseconds else f"{mine / values[other]:.2f}x"
        rows.append([label, form(mine), f"{other}: {form(values[other])}", ratio])
    return rows


def _milliseconds(value: float) -> str:
    return f"{value:.3g} ms"


def _megabytes(value: float) -> str:
    return f"{value / 1e6:.0f} MB"


def _gigabytes(value: float) -> str:
    return f"{value / 1e9:.1f} GB"
