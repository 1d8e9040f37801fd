"""Tables of the suite `ops`: one shape of each op for the pages, all of them for the report."""

from typing import Any

from benchmarks.ops.floor import floor_milliseconds
from benchmarks.report.markdown import notes, table

# The ops as their users know them; those without entropy are in the report alone.
README_OPS = ("token_stats", "grpo_loss", "linear_token_stats", "linear_grpo_loss")


def ops(results: dict[str, Any]) -> str:
    """Return one shape of each op: the first that was timed."""
    rows = []
    for op in README_OPS:
        entry = next(each for each in results["entries"] if each["kind"] == "time" and each["op"] == op)
        lines = implementation_rows(entry, memory_of(entry, results))
        rows += [[f"`{op}`, {shape(entry)}" if number == 0 else "", *line] for number, line in enumerate(lines)]
    shown = table(["op and shape", *HEADINGS], rows)
    return f"{shown}\n\n{all_shapes(results)}" + notes(results["machine"]["versions"], missing(results))


def all_shapes(results: dict[str, Any]) -> str:
    """Of every op and shape, those included that no short table shows: between what `rlif`'s speed-ups lie."""
    eager, others, rounds = [], [], []
    for entry in results["entries"]:
        found = {name: each for name, each in entry["implementations"].items() if "forward_backward" in each}
        if entry["kind"] != "time" or not {"rlif", "eager"} <= set(found):
            continue
        medians = {name: each["forward_backward"]["median"] for name, each in found.items()}
        eager.append(found["rlif"]["forward_backward_speedup"]["median"])
        fastest = min(median for name, median in medians.items() if found[name]["package"] != "rlif")
        others.append(fastest / medians["rlif"])
        rounds.append(found["rlif"]["forward_backward"]["n"])
    if not rounds:
        return ""
    return (
        f"Over all {len(rounds)} shapes and ops of the report, `rlif` forward and backward is {min(eager):.1f} to "
        f"{max(eager):.1f} times as fast as eager, and {min(others):.1f} to {max(others):.1f} times as fast as the "
        f"fastest of the others. Medians of {min(rounds)} to {max(rounds)} rounds."
    )


HEADINGS = ["implementation", "forward", "forward + backward", "speed-up (20-80%)", "of the floor", "memory", "error"]
# The work that cannot be avoided, over the time of forward and backward.
RATE = "bytes or FLOP a second"


def all_ops(results: dict[str, Any]) -> str:
    """Return every shape of every op, a table each."""
    parts = []
    for entry in results["entries"]:
        if entry["kind"] == "time":
            rows = implementation_rows(entry, memory_of(entry, results), rates=True)
            parts.append(f"### `{entry['op']}`, {shape(entry)}\n\n{entry['title'][0].upper()}{entry['title'][1:]}.")
            parts.append(table([*HEADINGS, RATE], rows))
            composed: dict[str, list[str]] = {}
            for name, each in entry["implementations"].items():
                composed.setdefault(each["composed"], []).append(name)
            parts += [f"\\* {', '.join(names)}: {what}." for what, names in composed.items() if what]
    for entry in results["entries"]:
        if entry["kind"] == "memory":
            logits, phases = entry["logits_bytes"], ("forward_bytes", "forward_backward_bytes")
            shares = {name: [share(each[p], logits) for p in phases] for name, each in entry["implementations"].items()}
            rows = [[name, *cells] for name, cells in shares.items()]
            parts.append(f"### Extra memory of `{entry['op']}`, {shape(entry)}")
            parts.append(table(["implementation", "forward", "forward + backward"], rows))
    return "\n\n".join(parts)


def implementation_rows(
    entry: dict[str, Any], memory: dict[str, dict[str, float]], *, rates: bool = False
) -> list[list[str]]:
    """A row for each implementation of an entry; \\* marks what had to be composed."""
    rows = []
    for name, each in entry["implementations"].items():
        label = f"{name} \\*" if each["composed"] else name
        worst = f"{max(each['output_error'], each['gradient_error']):.0e}"
        if each["wrong"]:
            rows.append([label, *["wrong"] * 4, "", f"**{worst}**", *[""] * rates])
            continue
        if "forward_backward" not in each:  # interrupted before
            continue
        ratio = each.get("forward_backward_speedup")
        floor = floor_milliseconds(entry, "forward_backward")
        median = each["forward_backward"]["median"]
        extra = memory.get(name)
        cells = [
            f"{each['forward']['median']:.3g} ms",
            f"{median:.3g} ms",
            f"{ratio['median']:.1f}x ({ratio['low']:.1f}-{ratio['high']:.1f})" if ratio else "",
            f"{floor / median:.0%}" if floor else "",
            share(extra["forward_backward_bytes"], entry["logits_bytes"]) if extra else "",
            worst,
        ]
        rows.append([label, *cells, *([rate(entry, median)] if rates else [])])
    return rows


def rate(entry: dict[str, Any], milliseconds: float) -> str:
    """Bytes or operations of the floor over a time of forward and backward."""
    if entry["hidden_size"]:
        operations = 3 * 2 * entry["rows"] * entry["columns"] * entry["hidden_size"]
        return f"{operations / milliseconds / 1e9:.3g} TFLOP/s"
    transfers = 2 if entry["op"] == "grpo_loss" else 3
    return f"{transfers * entry['logits_bytes'] / milliseconds / 1e6:.3g} GB/s"


def share(extra: float, logits: float) -> str:
    return f"{extra / 1e6:.0f} MB ({extra / logits:.0%})"


def shape(entry: dict[str, Any]) -> str:
    hidden = f", H = {entry['hidden_size']}" if entry["hidden_size"] else ""
    return f"{entry['rows']} x {entry['columns']}{hidden}, {entry['dtype']}"


def memory_of(entry: dict[str, Any], results: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Peak memory by implementation, where it was measured at the same shape."""
    same = ("op", "rows", "columns", "hidden_size", "dtype")
    for other in results["entries"]:
        if other["kind"] == "memory" and all(other[key] == entry[key] for key in same):
            found: dict[str, dict[str, float]] = other["implementations"]
            return found
    return {}


def missing(results: dict[str, Any]) -> list[str]:
    """What did not take part, and in which op: of the same package others may have."""
    return sorted(f"{label.replace(': ', ' in ', 1)} ({reason})" for label, reason in results["missing"].items())
