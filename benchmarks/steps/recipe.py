"""Suite `recipe`: the recipe for a real language model, trained on internal rewards and on right answers.

    python -m benchmarks recipe --model DIR

Every run is `rlif train --config examples/recipes/smollm2-word-problems.yaml` with another reward or seed, in float32
where the processor has no instructions for bfloat16, and with a guard that only warns, so that a fall is seen. The runs
are kept in runs/recipe, by the model and the recipe, and go on from there: what is finished is not trained again.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.runner import Options, Step
from benchmarks.steps.word_prompts import RECIPE
from rlif.files.fingerprint import fingerprint
from rlif.files.json_values import write_json

RUNS = Path("runs") / "recipe"
REWARDS = ("self_certainty", "token_entropy", "majority_vote", "verifiable")
SEEDS = 2
# Of a tiny run, which shows that everything works.
TINY = {"max_steps": 2, "eval_steps": 2, "prompts_per_step": 1, "num_generations": 2, "max_completion_length": 3,
        "data": "word_problems:level=1,n=4,split=train", "eval_data": "word_problems:level=1,n=2,split=test",
        "chat": False, "guard": "off"}  # fmt: skip
COURSE = ("step", "reward", "entropy", "completion_length", "step_seconds")
EVALUATION = ("eval/accuracy", "eval/entropy", "eval/completion_length", "eval/self_certainty", "eval/kl")


def steps(options: Options) -> list[Step]:
    """One for each reward and seed, the first seed of all first."""
    seeds = range(SEEDS if options.size == "full" else 1)
    return [
        Step(f"{reward}, seed {seed}", 330, partial(add_run, options, reward, seed))
        for seed in seeds
        for reward in REWARDS
    ]


def add_run(options: Options, reward: str, seed: int, results: dict[str, Any]) -> str:
    """Train, and add the evaluations and the course of the reward to the entries."""
    assert options.model is not None  # as the command line sees to
    changed: dict[str, Any] = {"guard": "warn", "dtype": dtype(options.device)}
    changed |= {} if options.size == "full" else TINY
    recipe = yaml.safe_load(RECIPE.read_text(encoding="utf-8")) | changed
    results["model"], results["recipe"] = options.model.name, recipe
    # Runs of another recipe, or of another model of that name, are others.
    runs = RUNS / f"{options.model.name}-{fingerprint([recipe, str(options.model.resolve())])[:8]}"
    run = runs / f"{reward}-seed-{seed}"
    found = run.with_suffix(".json")
    if not found.exists():
        own = {"model": options.model, "reward": reward, "seed": seed, "output_dir": run, "device": options.device}
        seconds = train(changed | own, resume=(run / "config.yaml").exists())
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        write_json(found, entry(reward, seed, seconds, rows))
    results["entries"].append(json.loads(found.read_text(encoding="utf-8")))
    first, last = (results["entries"][-1]["evaluations"][place]["eval/accuracy"] for place in (0, -1))
    return f"accuracy {first:.1%} to {last:.1%}"


def train(options: dict[str, Any], resume: bool) -> float:
    """Run `rlif train` by the recipe with some options changed, and return the seconds that it took."""
    command = [sys.executable, "-m", "rlif", "train", "--config", str(RECIPE)]
    for name, value in options.items():
        words = name.replace("_", "-")
        command += [f"--{'' if value else 'no-'}{words}"] if isinstance(value, bool) else [f"--{words}", str(value)]
    started = time.perf_counter()
    ended = subprocess.run(command + ["--resume"] * resume, check=False)
    if ended.returncode != 0:
        raise RuntimeError(f"{shlex.join(command)} ended with exit code {ended.returncode}")
    return time.perf_counter() - started


def entry(reward: str, seed: int, seconds: float, rows: list[dict[str, float]]) -> dict[str, Any]:
    """What is kept of a run, from the rows of its metrics."""
    evaluated = [row for row in rows if "eval/accuracy" in row]
    return {
        "reward": reward,
        "seed": seed,
        "seconds": seconds,
        "steps": [{name: row[name] for name in COURSE if name in row} for row in rows],
        "evaluations": [{name: row[name] for name in ("step", *EVALUATION) if name in row} for row in evaluated],
    }


def dtype(device: str) -> str:
    """That in which a step takes less time: without instructions torch multiplies bfloat16 without vectors."""
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return "bfloat16" if device != "cpu" or supported() else "float32"
