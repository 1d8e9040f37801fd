"""The page and the README's table of what `python -m benchmarks.scaling` measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cluster import GPUS_PER_NODE
from benchmarks.four_ops import OPS
from benchmarks.report.markdown import table

TEXT = (Path(__file__).parent / "scaling_page.md").read_text()


def exponent(sizes: list[float], values: list[float]) -> float:
    """p of the best fit of values ~ sizes^p, by least squares of the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def swept(entries: list[dict[str, Any]], varied: str, held: str) -> list[dict[str, Any]]:
    """Of entries that vary two things, each on its own, those that vary the one, in its order."""
    values = [entry[held] for entry in entries]
    middle = max(set(values), key=values.count)
    return sorted((entry for entry in entries if entry[held] == middle), key=lambda entry: entry[varied])


def time_exponent(entries: list[dict[str, Any]], varied: str, held: str, phase: str | None = None) -> float:
    """How the median time grows with what is varied."""
    found = swept(entries, varied, held)
    seconds = [entry["seconds"][phase] if phase else entry["seconds"] for entry in found]
    return exponent([entry[varied] for entry in found], [each["median"] for each in seconds])


def spread(entries: list[dict[str, Any]]) -> float:
    """The widest range from the 20th to the 80th percentile, as a share of the median."""
    seconds = [entry["seconds"] for entry in entries]
    return max((each["p80"] - each["p20"]) / each["median"] for each in seconds)


def memory_growth(entries: list[dict[str, Any]]) -> tuple[float, float]:
    """From the fewest tokens to the most: how many times as many they are, and how much more is allocated for them."""
    first, *_, last = swept(entries, "tokens", "vocab_size")
    return last["tokens"] / first["tokens"], last["extra_bytes"] / first["extra_bytes"]


def of(results: dict[str, Any], op: str, implementation: str) -> list[dict[str, Any]]:
    return [e for e in results["ops"] if e["op"] == op and e["implementation"] == implementation]


def counted(ranks: list[dict[str, Any]], kind: str) -> int:
    """Bytes that a process brought to all collectives of a kind; the same for each, or the model of it is wrong."""
    totals = {sum(rank["payload"].get(kind, [])) for rank in ranks}
    if len(totals) != 1:
        raise ValueError(f"{kind}: processes bring {sorted(totals)} bytes, expected one number")
    return totals.pop()


def scaling_table(results: dict[str, Any]) -> str:
    """For the README: what was measured beside what was expected of it."""
    ours = of(results, "linear_grpo_loss", "rlif")
    tokens, growth = memory_growth(ours)
    rows = [
        ["time of `linear_grpo_loss` against tokens", f"{time_exponent(ours, 'tokens', 'vocab_size'):.2f}", "1"],
        ["against V", f"{time_exponent(ours, 'vocab_size', 'tokens'):.2f}", "1"],
        [f"its extra memory for {tokens:.0f} times the tokens", f"{growth:.2f}x", "1x: a tile"],
    ]
    if results["step"]:
        update = "scoring and update"
        for name, varied, held in (
            ("completions of a prompt", "num_generations", "completion_length"),
            ("their length", "completion_length", "num_generations"),
        ):
            rows.append(
                [f"time of learning against {name}", f"{time_exponent(results['step'], varied, held, update):.2f}", "1"]
            )
    for entry in results["vocabulary"]:
        if entry["world_size"] == max(each["world_size"] for each in results["vocabulary"]) > 1:
            own = counted([rank["linear_grpo_loss"] for rank in entry["ranks"]], "all_gather") / entry["tokens"]
            instead = counted([rank["gathered logits"] for rank in entry["ranks"]], "all_gather") / entry["tokens"]
            name = f"bytes a token that each of {entry['world_size']} processes shares of its slice of the vocabulary"
            rows += [
                [name, f"{own:.0f}", f"{entry['predicted']['all_gather'] / entry['tokens']:.0f}"],
                ["the same with the logits gathered", f"{instead:.0f}", "V/n logits"],
            ]
    for entry in results["training"]:
        if entry["kind"] == "data parallel" and entry["world_size"] == 2:
            name = "bytes that a process brings to the gradient of a step (DDP)"
            rows.append([name, str(counted(entry["ranks"], "all_reduce")), str(entry["predicted"]["all_reduce"])])
    return table(["", "measured or counted", "expected"], rows)


def growth_table(results: dict[str, Any]) -> str:
    rows = []
    for op in OPS:
        for name in ("rlif", "naive"):
            entries = of(results, op, name)
            fewest, *_, most = swept(entries, "tokens", "vocab_size")
            cells = [
                f"{time_exponent(entries, 'tokens', 'vocab_size'):.2f}",
                f"{time_exponent(entries, 'vocab_size', 'tokens'):.2f}",
                f"{spread(entries):.0%}",
                *(f"{e['extra_bytes'] / (4 * e['tokens'] * e['vocab_size']):.1%}" for e in (fewest, most)),
            ]
            rows.append([f"`{op}`, {name}", *cells])
    headings = ["", "time: exponent of N", "of V", "widest spread", "extra memory of the fewest", "of the most tokens"]
    return table(headings, rows)


def step_table(results: dict[str, Any]) -> str:
    if not results["step"]:
        return "No step was measured."
    rows = [
        [
            str(entry["num_generations"]),
            str(entry["completion_length"]),
            *(f"{entry['seconds'][phase]['median']:.2f} s" for phase in ("sampling", "scoring and update")),
            f"{entry['peak_bytes'] / 2**20:.0f} MiB",
        ]
        for entry in sorted(results["step"], key=lambda e: (e["completion_length"], e["num_generations"]))
    ]
    return table(["completions of a prompt", "tokens of each", "sampling", "scoring and update", "peak memory"], rows)


def exchanges_agree(results: dict[str, Any]) -> list[bool]:
    """Whether what was counted is what the model says: of every exchange."""
    pairs = [
        ([rank[op] for rank in entry["ranks"]], entry["predicted"])
        for entry in results["vocabulary"]
        for op in ("linear_token_stats", "linear_grpo_loss")
    ] + [(entry["ranks"], entry["predicted"]) for entry in results["training"]]
    return [counted(ranks, kind) == size for ranks, predicted in pairs for kind, size in predicted.items()]


def exchange_table(results: dict[str, Any]) -> str:
    """Every count beside its prediction, and what left through TCP beside a ring's share of it."""
    rows = []
    for entry in results["vocabulary"]:
        for op in ("linear_token_stats", "linear_grpo_loss"):
            rows += exchange_rows(f"`{op}`", entry, [rank[op] for rank in entry["ranks"]])
    for entry in results["training"]:
        rows += exchange_rows(f"a step, {'DDP' if entry['kind'] == 'data parallel' else 'FSDP'}", entry, entry["ranks"])
    return table(["", "processes", "collective", "counted", "expected", "sent, of a ring's bytes"], rows)


def exchange_rows(name: str, entry: dict[str, Any], ranks: list[dict[str, Any]]) -> list[list[str]]:
    n = entry["world_size"]
    share = {"all_gather": n - 1, "all_reduce": 2 * (n - 1) / n, "broadcast": 1}
    ring = sum(share[kind] * counted(ranks, kind) for kind in ranks[0]["payload"])
    sent = sum(rank["sent_bytes"] for rank in ranks) / n
    rows = []
    for index, (kind, expected) in enumerate(entry["predicted"].items()):
        last = f"{sent / ring:.3f}" if ring and index == 0 else ""
        rows.append([name, str(n), kind.replace("_", "-"), str(counted(ranks, kind)), str(expected), last])
    return rows


def shard_table(results: dict[str, Any]) -> str:
    rows = []
    for entry in results["vocabulary"]:
        for op in ("linear_token_stats", "linear_grpo_loss"):
            ranks = [rank[op] for rank in entry["ranks"]]
            cells = [
                f"{1e3 * max(rank['processor_seconds'] for rank in ranks):.0f} ms",
                f"{max(rank['extra_bytes'] for rank in ranks) / 2**20:.1f} MiB",
            ]
            rows.append([f"`{op}`", str(entry["world_size"]), *cells])
    return table(["", "processes", "processor time of each", "extra memory of each"], rows)


def paper_table(results: dict[str, Any]) -> str:
    rows = []
    for row in results["paper"]["rows"]:
        exchange = row["exchange within nodes"] + row["exchange between nodes"]
        cells = [
            str(row["gpus"]),
            *(f"{row[name]:.2f} s" for name in ("sampling", "learning", "exchange within nodes")),
            f"{row['exchange between nodes']:.2f} s",
            f"{1 - exchange / row['step']:.0%}",
            f"{row['tokens per second'] / 1e3:.0f}k",
        ]
        rows.append([row["model"], *cells])
    headings = [
        "",
        "GPUs",
        "sampling",
        "learning",
        "exchange within nodes",
        "between nodes",
        "computing",
        "tokens a second",
    ]
    return table(headings, rows)


def page(results: dict[str, Any], source: str) -> str:
    """`SCALING.md`, all of it, from results of which `source` is the file's name."""
    rates, step, machine = results["paper"]["rates"], results["paper"]["step"], results["machine"]
    split = next(row for row in results["paper"]["rows"] if row["statistics"] > 0)
    (rank, *_) = next(entry["ranks"] for entry in results["training"] if entry["kind"] == "data parallel")
    return TEXT.format(
        source=source,
        machine=f"{machine['cores']} cores ({machine['processor']})",
        missing="".join(f"\n\nNot measured: {name} ({reason})." for name, reason in results["missing"].items()),
        hidden_size=results["hidden_size"],
        tile=f"{results['tile_bytes'] >> 20} MiB",
        growth=growth_table(results),
        steps=step_table(results),
        shards=shard_table(results),
        agreement="equal, to the byte" if all(exchanges_agree(results)) else "**not equal**",
        exchanges=exchange_table(results),
        bookkeeping=sum(sum(sizes) for kind, sizes in rank["payload"].items() if kind != "all_reduce"),
        memory=f"{rates['memory'] / 1e12:.1f} TB/s",
        products=f"{rates['products'] / 1e12:.0f} TFLOP/s",
        node=f"{rates['node'] / 1e9:.0f} GB/s",
        network=f"{rates['network'] / 1e9:.0f} GB/s",
        hops=f"{1e6 * rates['node_latency']:.0f} and {1e6 * rates['network_latency']:.0f} microseconds",
        completions=f"{step['completions']} completions of {step['completion_length']} tokens",
        paper=paper_table(results),
        slices=GPUS_PER_NODE,
        statistics=f"{1e3 * split['statistics']:.2f} ms of a step of {split['step']:.0f} s",
        times=f"{split['gathered logits instead'] / split['statistics']:.0f}",
        gathered=f"{1e3 * split['gathered logits instead']:.0f} ms",
        second_forward=f"{split['second forward instead']:.1f} s",
    )
