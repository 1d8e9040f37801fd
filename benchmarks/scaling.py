"""How time and memory grow, and what processes exchange: measured on a CPU, and on paper to a thousand GPUs.

    python -m benchmarks.scaling [--quick] [--output benchmarks/results]

Measured: each op, forward and backward, against tokens and vocabulary, beside its naive form; a whole step of
`rlif train` against the group and the completions' length; a head whose vocabulary is dealt to 1, 2 and 4 processes; a
step of data-parallel training, its weights copied (DDP) or sharded (FSDP). What the processes exchange is counted, and
compared with `benchmarks.cluster`, which goes on to a thousand GPUs. Writes CORES-core-cpu-DATE-scaling.json after each
measurement; `python -m benchmarks report` draws SCALING.md and two charts from it. Linux only.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import quantiles
from typing import Any

import torch

from benchmarks.allocation import peak_allocated
from benchmarks.cluster import data_parallel_payload, hidden_payload, paper, sharded_payload, statistics_payload
from benchmarks.four_ops import OPS, make_case
from benchmarks.machine import describe
from benchmarks.scaling_ranks import launch

HIDDEN_SIZE = 128
TILE_BYTES = 8 << 20
# What is varied, beside what is held at the other's middle.
TOKENS, COLUMNS = (64, 128, 256, 512, 1024), (8000, 16000, 32000, 64000, 128000)
QUICK_TOKENS, QUICK_COLUMNS = (64, 128, 256), (2000, 4000, 8000)
ROUNDS, QUICK_ROUNDS = 7, 3
GROUPS, LENGTHS = (2, 4, 8, 16), (16, 32, 64, 128)
QUICK_GROUPS, QUICK_LENGTHS = (2, 4), (4, 8)
STEP = {"vocab-size": 8000, "hidden-size": 128, "num-layers": 2, "prompts": 4, "prompt-length": 16, "steps": 4}
QUICK_STEP = STEP | {"vocab-size": 100, "hidden-size": 32, "steps": 3}
WORLD_SIZES, QUICK_WORLD_SIZES = (1, 2, 4), (3,)
PARTS = ("vocabulary", "training", "ops", "step")


def seconds_of(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, float]]:
    """Median, 20th and 80th percentile of each call, one call of each in turn."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - started)
    return {name: summary(values) for name, values in times.items()}


def summary(values: list[float]) -> dict[str, float]:
    fifths = quantiles(values, n=10, method="inclusive")
    return {"median": fifths[4], "p20": fifths[1], "p80": fifths[7], "rounds": len(values)}


def measure_op(op: str, tokens: int, vocab_size: int, rounds: int) -> list[dict[str, Any]]:
    """Time, and bytes beyond inputs and gradients, of one op and its naive form."""
    case = make_case(op, tokens, vocab_size, HIDDEN_SIZE, tile_bytes=TILE_BYTES)
    difference = case.largest_difference()
    if not difference < 1e-4:  # sums over V in two orders; NaN is none of it either
        raise ArithmeticError(f"{op}: differs from its naive form by {difference:.1e} at {tokens} x {vocab_size}")
    names = ("naive", "rlif")
    extra = {}
    for name in names:
        case.drop_gradients()
        extra[name] = peak_allocated(partial(case.run, name)) - case.gradient_bytes
    seconds = seconds_of({name: partial(case.run, name) for name in names}, rounds)
    shape = {"op": op, "tokens": tokens, "vocab_size": vocab_size}
    return [{**shape, "implementation": name, "seconds": seconds[name], "extra_bytes": extra[name]} for name in names]


def op_shapes(quick: bool) -> list[tuple[int, int]]:
    """(tokens, columns): each varied on its own."""
    tokens, columns = (QUICK_TOKENS, QUICK_COLUMNS) if quick else (TOKENS, COLUMNS)
    middle = (tokens[len(tokens) // 2], columns[len(columns) // 2])
    return list(dict.fromkeys([*((n, middle[1]) for n in tokens), *((middle[0], v) for v in columns)]))


def measure_step(num_generations: int, completion_length: int, quick: bool) -> list[dict[str, Any]]:
    """A step of `rlif train` in a process of its own: seconds of its phases, and the process's peak memory."""
    options = (QUICK_STEP if quick else STEP) | {
        "num-generations": num_generations,
        "max-completion-length": completion_length,
    }
    words = [f"--{name}={value}" for name, value in options.items()]
    command = [sys.executable, "-m", "benchmarks.training_step", "--implementation", "rlif", *words]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        raise RuntimeError(process.stderr.strip().splitlines()[-1])
    result = json.loads(process.stdout.splitlines()[-1])
    seconds = {name: summary([step[name] for step in result["steps"][1:]]) for name in result["seconds"]}
    shape = {"num_generations": num_generations, "completion_length": completion_length}
    return [{**shape, "seconds": seconds, "peak_bytes": result["peak_bytes"]}]


def step_shapes(quick: bool) -> list[tuple[int, int]]:
    """(completions of a prompt, tokens of each): each varied on its own."""
    groups, lengths = (QUICK_GROUPS, QUICK_LENGTHS) if quick else (GROUPS, LENGTHS)
    middle = (groups[len(groups) // 2], lengths[len(lengths) // 2])
    return list(dict.fromkeys([*((g, middle[1]) for g in groups), *((middle[0], t) for t in lengths)]))


def measure_vocabulary(world_size: int, directory: Path, quick: bool) -> list[dict[str, Any]]:
    """A head of which each process holds a slice: what each exchanges, by count and by the model; memory; time."""
    options = {"tokens": 512, "vocab_size": 32000, "hidden_size": HIDDEN_SIZE, "rounds": 5, "tile_bytes": TILE_BYTES}
    if quick:
        options |= {"tokens": 64, "vocab_size": 3000, "rounds": 2, "tile_bytes": 1 << 15}
    ranks = launch("vocabulary", world_size, directory, options)
    predicted = {
        "all_gather": statistics_payload(options["tokens"]),
        "all_reduce": hidden_payload(options["tokens"], options["hidden_size"], itemsize=4),
    }
    return [{"world_size": world_size, **options, "predicted": predicted, "ranks": ranks}]


def measure_training(world_size: int, directory: Path, quick: bool) -> list[dict[str, Any]]:
    """One step of training in several processes, weights copied and sharded: what each exchanges, and by the model."""
    options = {"vocab_size": 512, "hidden_size": 64, "completion_length": 4 if quick else 16}
    both = launch("training", world_size, directory, options)
    entries = []
    for kind in ("data parallel", "sharded"):
        ranks = [rank[kind] for rank in both]
        if kind == "data parallel":
            predicted = {"all_reduce": data_parallel_payload(ranks[0]["parameters"], itemsize=4)}
        else:
            parameters = ranks[0]["parameters_in_layers"], ranks[0]["parameters_elsewhere"]
            gathered, reduced = sharded_payload(*parameters, world_size, itemsize=4)
            predicted = {"all_gather": gathered, "all_reduce": reduced}
        entries.append({"kind": kind, "world_size": world_size, **options, "predicted": predicted, "ranks": ranks})
    return entries


def measurements(quick: bool, scratch: Path) -> Iterator[tuple[str, str, Callable[[], list[dict[str, Any]]]]]:
    """The list that each measurement belongs to, what it is, and how to make it."""
    for ranks in QUICK_WORLD_SIZES if quick else WORLD_SIZES:
        name = f"vocabulary in {ranks}"
        yield "vocabulary", name, partial(measure_vocabulary, ranks, scratch / name, quick)
    for ranks in WORLD_SIZES[1:2] if quick else WORLD_SIZES[1:]:
        name = f"training in {ranks}"
        yield "training", name, partial(measure_training, ranks, scratch / name, quick)
    rounds = QUICK_ROUNDS if quick else ROUNDS
    for op in OPS:
        for tokens, vocab_size in op_shapes(quick):
            yield "ops", f"{op}, {tokens} x {vocab_size}", partial(measure_op, op, tokens, vocab_size, rounds)
    for group, length in step_shapes(quick):
        yield "step", f"step, {group} completions of {length} tokens", partial(measure_step, group, length, quick)


def run(quick: bool, only: list[str], save: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """Make all measurements of these parts; `save` gets the results so far after each. What fails is named missing."""
    results: dict[str, Any] = {
        "date": str(datetime.date.today()),
        "machine": describe(),
        "size": "quick" if quick else "full",
        "hidden_size": HIDDEN_SIZE,
        "tile_bytes": TILE_BYTES,
        "paper": paper(),
        "missing": {},
        **{part: [] for part in PARTS},
    }
    with tempfile.TemporaryDirectory() as scratch:
        for part, name, measure in measurements(quick, Path(scratch)):
            if part not in only:
                continue
            started = time.perf_counter()
            try:
                results[part].extend(measure())
                print(f"{name}: {time.perf_counter() - started:.1f} s", flush=True)
            except (ArithmeticError, RuntimeError) as error:
                results["missing"][name] = str(error)[:500]
                print(f"{name}: {error}", flush=True)
            save(results)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small shapes, to see that it works")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="directory to write to")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    arguments = parser.parse_args()
    if sys.platform != "linux":
        parser.error("counting what processes send needs Linux's /proc")
    # One thread: with several, how well they share an op changes with its size.
    torch.set_num_threads(1)
    arguments.output.mkdir(parents=True, exist_ok=True)
    machine = f"{describe()['cores']}-core-cpu-{datetime.date.today()}"
    path = arguments.output / f"{machine}-scaling.json"
    run(arguments.quick, arguments.only, lambda results: path.write_text(json.dumps(results, indent=1) + "\n"))
    print(path)


if __name__ == "__main__":
    main()
