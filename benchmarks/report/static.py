"""Tables of the suite `static`: what the kernels compile to, what that leaves room for, and what follows for a call."""

from __future__ import annotations

from typing import Any

from benchmarks.gates.hardware import GPUS, REACHED
from benchmarks.gates.predict import COLUMNS, ITEMSIZES, OPS, ROWS, predictions
from benchmarks.report.markdown import table

Prediction = dict[str, Any]
TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")
SHOWN = (
    "forward (bf16)", "backward (bf16)", "forward (fp32)", "backward (fp32)", "forward (bf16, unaligned)",
    "grpo statistics (bf16)", "grpo gradient (bf16)", "divergence sums (bf16, reverse_kl)",
    "divergence gradient (bf16, reverse_kl)", "divergence mixture (bf16, jsd)", "divergence gradient (bf16, jsd)",
)  # fmt: skip
# The shapes of the pages: all of the device busy, and few rows.
PAGE_SHAPES = ((8192, 151936), (64, 151936))
PEERS = ("TRL", "Liger")


def static_table(results: dict[str, Any]) -> str:
    """The main loops on every target, and what is predicted of a few calls."""
    if not results.get("counts"):  # no target's kernels compiled: what is missing says why
        return ""
    if not predictable(results):
        return counts_table(results)
    found = [each for each in predictions(results["counts"]) if (each["rows"], each["columns"]) in PAGE_SHAPES]
    page = [each for each in found if each["dtype"] == "bf16"]
    return f"{counts_table(results)}\n\nPredicted, of bfloat16 logits:\n\n{calls_table(page)}"


def predictable(results: dict[str, Any]) -> bool:
    """Whether the loads under way were counted, as files of earlier versions have them not."""
    return all("in_flight" in each for each in results["counts"])


def counts_table(results: dict[str, Any]) -> str:
    by_kernel: dict[str, dict[str, Any]] = {}
    for counts in results["counts"]:
        by_kernel.setdefault(counts["kernel"], {})[counts["target"]] = counts
    targets = [name for name in TARGETS if any(name in found for found in by_kernel.values())]
    peers = sorted((name for name in by_kernel if name.startswith(PEERS)), reverse=True)
    rows = []
    for kernel in (*SHOWN, *peers):
        counts = by_kernel[kernel]
        cells = [f"{counts[target]['instructions']:.1f}" if target in counts else "" for target in targets]
        hopper = counts["sm_90"]
        cells += [f"{hopper['barriers']} / {hopper['shuffles']}", f"{hopper['load_bytes']} bytes"]
        cells += [str(hopper["registers"]), str(hopper.get("programs", ""))]
        cells += [f"{hopper['in_flight'] / 1024:.0f} KB" if "in_flight" in hopper else ""]
        cells += [str(max(each["spills"] for each in counts.values()))]
        rows.append([kernel, *cells])
    headings = ["barriers / shuffles", "loads", "registers (sm_90)", "programs an SM", "in flight an SM", "spills"]
    return table(["main loop", *targets, *headings], rows)


def variants_table(results: dict[str, Any]) -> str:
    """Launches that a GPU is to choose from, beside those of the table: what their loop that reads a row became."""
    found = results.get("variants", [])
    kinds = dict.fromkeys((each["kernel"], each["target"]) for each in found)
    of_table = {(each["kernel"], each["target"]): each for each in results["counts"]}
    rows = []
    for key in kinds:
        same = [each for each in found if (each["kernel"], each["target"]) == key]
        for name, each in [("the table's", of_table[key]), *((each["variant"], each) for each in same)]:
            rows.append(
                [f"{each['kernel']}, {name}", f"{each['instructions']:.2f}", str(each["barriers"]),
                 str(each["registers"]), f"{each['shared_bytes'] / 1024:.0f} KB", str(each["programs"]),
                 f"{each['in_flight'] / 1024:.0f} KB", str(each["spills"])]
            )  # fmt: skip
    headings = ["instructions", "barriers", "registers", "shared", "programs an SM", "in flight an SM", "spills"]
    return table([f"launches of {' and '.join(dict.fromkeys(key[1] for key in kinds))}", *headings], rows)


def calls_table(found: list[Prediction]) -> str:
    """Predicted times with the bound that holds, a column for each GPU."""
    gpus = list(dict.fromkeys(each["gpu"] for each in found))
    rows: dict[tuple[Any, ...], dict[str, str]] = {}
    for each in found:
        key = (each["op"], each["who"], each["rows"], each["columns"], each["dtype"])
        rows.setdefault(key, {})[each["gpu"]] = f"{1e3 * each['seconds']:.3g} ms, {each['bound']}"
    drawn = [
        [f"{op}, {rows_} x {columns}, {dtype}", who, *(cells.get(gpu, "") for gpu in gpus)]
        for (op, who, rows_, columns, dtype), cells in sorted(rows.items(), key=lambda item: order(item[0]))
    ]
    return table(["call", "of", *gpus], drawn)


def order(key: tuple[Any, ...]) -> tuple[Any, ...]:
    op, who, rows, columns, dtype = key
    return OPS.index(op), dtype, -rows, columns, who != "rlif", who


def launches_table(found: list[Prediction], gpu: str) -> str:
    """How ours are launched at every shape: waves' balance, launches and memsets."""
    rows = []
    for dtype in ITEMSIZES:
        for num_rows in ROWS:
            for columns in COLUMNS:
                cells = []
                for op in OPS:
                    (each,) = [
                        each for each in found
                        if (each["gpu"], each["who"], each["op"]) == (gpu, "rlif", op)
                        and (each["rows"], each["columns"], each["dtype"]) == (num_rows, columns, dtype)
                    ]  # fmt: skip
                    path = f"{each['path']}, " if each["path"] else ""
                    cells.append(f"{path}{each['balance']:.2f}, {each['launches']} + {each['memsets']}")
                rows.append([f"{num_rows} x {columns}, {dtype}", *cells])
    return table([f"{gpu}: balance, launches + memsets", *OPS], rows)


def static_report(results: dict[str, Any]) -> str:
    """All kernels, all shapes, and what each GPU is taken to be."""
    if not results.get("counts"):
        return ""
    if not predictable(results):
        return counts_table(results)
    found = predictions(results["counts"])
    facts = [
        [gpu.name, str(gpu.device.multiprocessors), f"{gpu.clock / 1e9:.2f} GHz", f"{gpu.bandwidth / 1e12:.2f} TB/s",
         f"{gpu.device.cache_bytes >> 20} MiB", str(gpu.lanes), str(gpu.exponentials), gpu.source]
        for gpu in GPUS.values()
    ]  # fmt: skip
    headings = ["GPU", "multiprocessors", "clock", "bandwidth", "cache", "instructions a clock", "exponentials", "from"]
    parts = [
        counts_table(results),
        "### Launches that a GPU is to choose from\n\n" + variants_table(results) if results.get("variants") else "",
        "### What a call should take",
        "Predicted from the counts above and the launcher's plans, not measured. Behind each time stands what bounds "
        "it: bytes, latency of the loads under way, instructions, exponentials, or launches. Of `grpo_loss` it is the "
        "kernels; what torch does with one number a token comes on top.",
        calls_table(found),
        launches_table(found, "H200") if any(each["gpu"] == "H200" for each in found) else "",
        f"Of each bandwidth {REACHED:.0%} are taken to be reached.",
        table(headings, facts),
    ]
    return "\n\n".join(part for part in parts if part)
