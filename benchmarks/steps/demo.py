"""Suite `demo`: does self-certainty rise and fall, and the verifiable reward rise, in `rlif demo` with each seed?

Keeps the evaluations of every run, the seconds they took, and the figure of the first seed beside the results.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.machine import slug
from benchmarks.runner import Options, Step
from rlif.demo.command import DEMO_REWARDS
from rlif.demo.command import run as run_demo
from rlif.demo.options import DemoConfig
from rlif.tasks.built_in_models import base_model_dir, pretrained_base

RUN_METRICS = (
    "step",
    "eval/accuracy",
    "eval/entropy",
    "eval/completion_length",
    "eval/base_nll",
    "eval/self_certainty",
)


def steps(options: Options) -> list[Step]:
    seeds = [Step(f"seed {seed}", 300, partial(add_seed, options, seed)) for seed in range(options.repeats)]
    return [Step("pretraining of the base model", 120, pretrain_base), *seeds]


def pretrain_base(results: dict[str, Any]) -> str:
    base = DemoConfig().base
    was_cached = base_model_dir(base).is_dir()
    started = time.perf_counter()
    pretrained_base(base)
    results["pretraining_seconds"] = None if was_cached else time.perf_counter() - started
    return "was done before" if was_cached else "done"


def add_seed(options: Options, seed: int, results: dict[str, Any]) -> str:
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch)
        started = time.perf_counter()
        run_demo(DemoConfig(output_dir=run, seed=seed))
        seconds = time.perf_counter() - started
        if seed == 0:
            shutil.copy(run / "figure.png", options.output / f"{slug(options.device)}-{results['date']}-demo.png")
        found = {reward: evaluations(run / reward / "metrics.jsonl") for reward in DEMO_REWARDS}
    results.setdefault("seeds", {})[seed] = {"seconds": seconds} | found
    return f"{seconds:.0f} s"


def evaluations(metrics: Path) -> list[dict[str, float]]:
    rows = map(json.loads, metrics.read_text(encoding="utf-8").splitlines())
    return [{key: round(row[key], 5) for key in RUN_METRICS} for row in rows if "eval/accuracy" in row]
