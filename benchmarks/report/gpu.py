"""What `python -m benchmarks gpu` found, as tables: a short one for the pages, a longer one printed last, all of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.ops.floor import floor_milliseconds
from benchmarks.ops.implementations import TWO_OF_THREE
from benchmarks.report.markdown import notes, table
from benchmarks.report.ops import all_ops, shape

Entry = dict[str, Any]
OURS = "rlif"


def part(results: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = results["parts"].get(name, {})
    return found


def timed(results: dict[str, Any], *names: str) -> list[Entry]:
    """The entries of the parts in which ours was timed, those of one op and shape as one."""
    merged: dict[tuple[Any, ...], Entry] = {}
    for name in names:
        for entry in part(results, name).get("entries", []):
            # Each of its peers was timed in turn with the ours of its own entry.
            ours = median(entry, OURS)
            if ours is None:
                continue
            key = (entry["op"], entry["rows"], entry["columns"], entry["hidden_size"], entry["dtype"])
            first = merged.setdefault(key, {**entry, "ratios": {}})
            for peer in entry["implementations"]:
                theirs = median(entry, peer)
                if theirs is not None and peer != OURS:
                    first["ratios"].setdefault(peer, (theirs, theirs / ours))
    return list(merged.values())


def median(entry: Entry, name: str, phase: str = "forward_backward") -> float | None:
    found: dict[str, Any] = entry["implementations"].get(name, {}).get(phase, {})
    return found.get("median")


def of_floor(entry: Entry, phase: str) -> str:
    """The share of the least time, or nothing where it was not measured."""
    floor, ours = floor_milliseconds(entry, phase), median(entry, OURS, phase)
    return f"{floor / ours:.0%}" if floor and ours else ""


def op_rows(results: dict[str, Any], *names: str) -> list[list[str]]:
    rows = []
    for entry in timed(results, *names):
        forward, both = median(entry, OURS, "forward"), median(entry, OURS)
        others = [f"{peer} {theirs:.3g} ms ({ratio:.2f}x)" for peer, (theirs, ratio) in entry["ratios"].items()]
        cells = [f"{forward:.3g} ms" if forward else "", of_floor(entry, "forward")]
        cells += [f"{both:.3g} ms", of_floor(entry, "forward_backward"), ", ".join(others)]
        rows.append([f"`{entry['op']}`, {shape(entry)}", *cells])
    return rows


OP_HEADINGS = [
    "op and shape", "forward", "of the floor", "forward + backward", "of the floor", "others (their time over ours)",
]  # fmt: skip


def contract_line(results: dict[str, Any]) -> str:
    """How many cases are right, and which are wrong."""
    found = part(results, "contract")
    if "cases" not in found:
        return why_not(found)
    line = f"{found['right']} of {found['cases']} cases are right"
    if found["wrong"]:
        line += f", {len(found['wrong'])} are wrong"
    if found["not tried"]:
        line += f", {len(found['not tried'])} were not tried"
    return line + "."


def why_not(found: dict[str, Any]) -> str:
    for key in ("missing", "skipped", "failed", "stopped"):
        if isinstance(found.get(key), str):
            return f"{key}: {found[key]}"
    return "not run"


def step_rows(results: dict[str, Any]) -> list[list[str]]:
    found = part(results, "step").get("implementations", {})
    ours = found.get(OURS)
    rows = []
    for name, entry in found.items():
        phases = ", ".join(f"{phase} {s:.2f} s" for phase, s in entry["seconds"].items() if phase != "step")
        ratio = f"{ours['tokens_per_second'] / entry['tokens_per_second']:.2f}x" if ours and name != OURS else ""
        rows.append([name, f"{entry['tokens_per_second']:.0f}", phases, f"{entry['peak_bytes'] / 1e9:.1f} GB", ratio])
    return rows


def counter_rows(results: dict[str, Any]) -> list[list[str]]:
    rows = []
    for launch in part(results, "counters").get("launches", []):
        time = f"{launch['nanoseconds'] / 1e6:.3g} ms" if "nanoseconds" in launch else ""
        rate = f"{launch['bytes_per_second'] / 1e12:.2f} TB/s" if "bytes_per_second" in launch else ""
        percents = ("bandwidth_percent", "issue_percent", "occupancy_percent", "l2_hit_percent")
        cells = [f"{launch[name]:.0f}%" if name in launch else "" for name in percents]
        rows.append([launch["kernel"], time, rate, *cells])
    return rows


def variant_rows(results: dict[str, Any]) -> list[list[str]]:
    """The fastest launch of every shape, and what it gains over the table's."""
    return [
        [f"`{entry['op']}`, {entry['rows']} x {entry['columns']}, {entry['dtype']}", entry["best"],
         f"{entry['milliseconds'][entry['best']]['median']:.3g} ms", f"{entry['gain']:.2f}x"]
        for entry in part(results, "variants").get("entries", [])
    ]  # fmt: skip


def sanitizer_line(results: dict[str, Any]) -> str:
    found = part(results, "sanitizer")
    said = [
        f"{tool}: {'stopped' if 'stopped' in result else 'clean' if result['exit'] == 0 else 'FAULTS'}"
        for tool, result in found.items()
        if isinstance(result, dict)
    ]
    return ", ".join(said) or why_not(found)


SECTIONS: dict[str, tuple[list[str], Callable[[dict[str, Any]], list[list[str]]]]] = {
    "ops": (OP_HEADINGS, lambda results: op_rows(results, "ops")),
    "variants": (["launch of", "fastest", "time", "over the table's"], variant_rows),
    "heads": (OP_HEADINGS, lambda results: op_rows(results, "heads")),
    "step": (["trainer", "tokens a second", "phases of a step", "peak memory", "ours over it"], step_rows),
    "counters": (["kernel", "time", "bandwidth", "of its peak", "issue", "occupancy", "L2 hits"], counter_rows),
}


def summary(results: dict[str, Any]) -> str:
    """Everything that counts, on a screen or two."""
    parts = [f"contract: {contract_line(results)}"]
    parts += [
        f"  {case}: {'; '.join(said)}" for case, said in list(part(results, "contract").get("wrong", {}).items())[:9]
    ]
    for name, (headings, rows) in SECTIONS.items():
        drawn = rows(results)
        parts.append(f"{name}:\n\n{table(headings, drawn)}" if drawn else f"{name}: {why_not(part(results, name))}")
    parts.append(f"sanitizer: {sanitizer_line(results)}")
    return "\n\n".join(parts)


def gpu_report(results: dict[str, Any]) -> str:
    """All of it, every implementation's errors included."""
    entries = {"entries": [each for name in ("ops", "heads") for each in part(results, name).get("entries", [])]}
    return f"{summary(results)}\n\n{all_ops(entries)}"


def gpu_table(results: dict[str, Any]) -> str:
    """Return a few shapes, ours beside the best of the others, for the pages."""
    rows = []
    for entry in timed(results, "ops", "heads"):
        if (entry["op"], entry["rows"], entry["columns"]) not in PAGE_SHAPES:
            continue
        both = median(entry, OURS)
        label = f"`{entry['op']}`, {shape(entry)}"
        if not entry["ratios"]:
            rows.append([label, f"{both:.3g} ms", of_floor(entry, "forward_backward"), "", ""])
            continue
        best = min(entry["ratios"], key=lambda name: entry["ratios"][name][0])
        theirs, ratio = entry["ratios"][best]
        named = best if best != TWO_OF_THREE else f"{best} (two of the three)"
        cells = [f"{both:.3g} ms", of_floor(entry, "forward_backward"), f"{named}: {theirs:.3g} ms", f"{ratio:.1f}x"]
        rows.append([label, *cells])
    steps = part(results, "step").get("implementations", {})
    if OURS in steps and "TRL" in steps:
        ours, theirs = (steps[name]["tokens_per_second"] for name in (OURS, "TRL"))
        rows.append(
            [
                "GRPO on self-certainty, 0.5B, tokens a second",
                f"{ours:.0f}",
                "",
                f"TRL: {theirs:.0f}",
                f"{ours / theirs:.1f}x",
            ]
        )
    shown = table(["forward + backward", OURS, "of the floor", "best of the others", "ratio"], rows)
    machine = results["machine"]
    return f"On one {machine['gpu']}, torch {machine['versions']['torch']}.\n\n{shown}" + notes(machine["versions"], [])


PAGE_SHAPES = {
    ("token_stats", 8192, 151936),
    ("token_stats", 64, 151936),
    ("grpo_loss", 8192, 151936),
    ("linear_token_stats", 8192, 131072),
    ("linear_grpo_loss", 8192, 131072),
}
