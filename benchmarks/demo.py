"""`rlif demo` with several seeds: does self-certainty rise and fall, and the verifiable reward rise, each time?

    python -m benchmarks.demo [--seeds 0 1 2] [--output benchmarks/results]

Writes NAME.json with the evaluations of every run and the seconds they took, and the figure of the first seed as
NAME.png; NAME says what kind of machine it was, and the day.
"""

import argparse
import datetime
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import describe
from rlif.demo.command import REWARDS
from rlif.demo.command import run as run_demo
from rlif.demo.options import DemoConfig
from rlif.tasks.built_in_models import base_model_dir, pretrained_base

METRICS = ("step", "eval/accuracy", "eval/entropy", "eval/completion_length", "eval/base_nll", "eval/self_certainty")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="the demo's seeds")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="directory to write to")
    arguments = parser.parse_args()

    machine = describe()
    name = f"{machine['cores']}-core-cpu-{datetime.date.today():%Y-%m-%d}-demo"
    base = DemoConfig().base
    was_cached = base_model_dir(base).is_dir()
    started = time.perf_counter()
    pretrained_base(base)
    pretraining_seconds = None if was_cached else time.perf_counter() - started

    results: dict[str, Any] = {
        "date": str(datetime.date.today()),
        "machine": machine,
        "pretraining_seconds": pretraining_seconds,
        "seeds": {},
    }
    with tempfile.TemporaryDirectory() as scratch:
        for seed in arguments.seeds:
            run = Path(scratch) / str(seed)
            started = time.perf_counter()
            run_demo(DemoConfig(output_dir=run, seed=seed))
            results["seeds"][seed] = {"seconds": time.perf_counter() - started} | {
                reward: evaluations(run / reward / "metrics.jsonl") for reward in REWARDS
            }
            arguments.output.mkdir(parents=True, exist_ok=True)
            if seed == arguments.seeds[0]:
                shutil.copy(run / "figure.png", arguments.output / f"{name}.png")
            # After every seed, so that an interruption loses none that is done.
            (arguments.output / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n")
    print(arguments.output / f"{name}.json")


def evaluations(metrics: Path) -> list[dict[str, float]]:
    rows = map(json.loads, metrics.read_text().splitlines())
    return [{key: round(row[key], 5) for key in METRICS} for row in rows if "eval/accuracy" in row]


if __name__ == "__main__":
    main()
