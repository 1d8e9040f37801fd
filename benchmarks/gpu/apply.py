"""What `python -m benchmarks gpu --apply FILE` does: a file that a device made becomes launches, tables and pages."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.gpu.variants import TABLE
from rlif.errors import UserError
from rlif.files.whole import write_text
from rlif_kernels.backends.triton import launches

# A variant takes the table's place if it is faster by more than medians of one run differ by chance.
LEAST_GAIN = 1.02
ITEMSIZES = {"bfloat16": 2, "float16": 2, "float32": 4}
# A measured vocabulary speaks for its neighbours: half the smallest, twice the largest, and half-way between two.
REACH = 2
# Choices that depend on the number of rows as well, which the table does not: the plan makes them. They are measured to
# see how well it does.
OF_THE_PLAN = {"slices"}


def apply(file: Path, results: Path | None = None, table: Path | None = None) -> list[str]:
    """Copy the file to the results, write the launches that were fastest, and draw every page anew.

    Args:
        file: what `python -m benchmarks gpu --output DIR` wrote.
        results: directory of the published files; default `benchmarks/results`.
        table: file of the launches; default the kernels' own.

    Returns:
        what was done, a line each.

    Raises:
        UserError: the file is not of a whole run on a device.
    """
    found = checked(file)
    results = report.RESULTS if results is None else results
    table = launches.FILE if table is None else table
    machine = re.sub(r"[^a-z0-9]+", "-", found["machine"]["gpu"].lower()).strip("-")
    published = results / f"{machine}-{found['date']}-gpu.json"
    # The table first: what cannot be written leaves nothing else half done.
    old = json.loads(table.read_text())
    new = replaced(old, measured_entries(found["parts"].get("variants", {})))
    launches.Table(new)  # raises if an entry is not one
    write_text(table, written(new), argument="--apply")
    write_text(published, json.dumps(found, indent=1) + "\n", argument="--apply")
    drawn = report.write_report(results)
    said = [f"{published}", f"{table}: {len(new)} entries, {len(old)} before", f"{drawn}"]
    if new != old:
        said.append(
            "the launches have changed: run `python -m benchmarks static --output benchmarks/results` and the tests"
        )
    return said


def checked(file: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--apply: cannot read {file}: {error}") from error
    if not isinstance(found, dict) or found.get("suite") != "gpu" or not isinstance(found.get("parts"), dict):
        raise UserError(f"--apply: got {file}, expected a gpu.json of `python -m benchmarks gpu`")
    if found["size"] != "full" or found["device"] != "cuda":
        raise UserError(f"--apply: {file} is of a dry run ({found['size']}, {found['device']}); expected a device's")
    if not found["finished"]:
        raise UserError(
            f"--apply: {file} is of a run of some parts, or one that was stopped; expected one of all parts"
        )
    return found


def measured_entries(variants: dict[str, Any]) -> list[dict[str, Any]]:
    """Entries of the launch table: of each kernel and vocabulary the variant that is fastest over all numbers of rows.

    Over the numbers of rows it is the geometric mean of its gains that counts, and it was measured at all of them.
    """
    shapes: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for entry in variants.get("entries", []):
        shapes.setdefault((entry["op"], entry["dtype"], entry["columns"]), []).append(entry)
    found = []
    for (op, dtype, columns), entries in sorted(shapes.items()):
        best = fastest(entries)
        if best is None:
            continue
        neighbours = {other for of, kind, other in shapes if (of, kind) == (op, dtype)}
        found.append(
            {
                "kernel": best["kernel"],
                "architecture": variants["architecture"],
                "itemsize": ITEMSIZES[dtype],
                "columns": reach(columns, neighbours),
                "choices": best["choices"],
            }
        )
    return found


def fastest(entries: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The variant with the largest gain over the table; None if the table's launch is as good."""
    gains: dict[str, float] = {}
    for name in set.intersection(*(set(entry["variants"]) for entry in entries)):
        if OF_THE_PLAN & entries[0]["variants"][name]["choices"].keys():
            continue
        ratios = [entry["milliseconds"][TABLE]["median"] / entry["milliseconds"][name]["median"] for entry in entries]
        gains[name] = math.prod(ratios) ** (1 / len(ratios))
    best = max(gains, key=gains.__getitem__, default=None)
    if best is None or gains[best] < LEAST_GAIN:
        return None
    chosen: dict[str, Any] = entries[0]["variants"][best]
    return chosen


def reach(columns: int, measured: Iterable[int]) -> list[int]:
    """The range of columns [from, to) that a measured number of columns speaks for."""
    ordered = sorted(measured)
    place = ordered.index(columns)
    low = (ordered[place - 1] + columns) // 2 if place else columns // REACH
    high = (columns + ordered[place + 1]) // 2 if place + 1 < len(ordered) else columns * REACH
    return [low, high]


def replaced(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The table with the new entries for those that were measured before on the same architecture."""
    architectures = {entry["architecture"] for entry in new}
    kept = [entry for entry in old if not ("columns" in entry and entry.get("architecture") in architectures)]
    return kept + new


def written(entries: list[dict[str, Any]]) -> str:
    """An entry a line."""
    return "[\n" + ",\n".join(f"  {json.dumps(entry)}" for entry in entries) + "\n]\n"
