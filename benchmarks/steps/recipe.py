"""Suite `recipe`: the recipe for a real language model, trained on internal rewards and on right answers.

    python -m benchmarks recipe --model DIR

First `rlif diagnose` says of each reward what to expect. Then every run is `rlif train --config
examples/recipes/smollm2-word-problems.yaml` with another reward or seed, in float32 where the processor has no
instructions for bfloat16, and with a guard that only warns, so that a fall is seen. The runs are kept in runs/recipe,
by the model and the recipe, and go on from there: what is finished is not made again.
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

import yaml

from benchmarks.runner import Options, Step
from benchmarks.steps.word_prompts import RECIPE
from rlif.diagnosis.report import DIAGNOSIS_FILE
from rlif.files.fingerprint import fingerprint
from rlif.files.json_values import write_json
from rlif.options.record import CONFIG_FILE
from rlif_kernels.head.products import multiplies_bfloat16

RUNS = Path("runs") / "recipe"
REWARDS = ("self_certainty", "token_entropy", "majority_vote", "verifiable")
# At most: --repeats 1 takes one alone, and a later run with two goes on from there.
SEEDS = 2
# Of a tiny run, which shows that everything works.
TINY = {"max_steps": 2, "eval_steps": 2, "prompts_per_step": 1, "num_generations": 2, "max_completion_length": 3,
        "data": "word_problems:level=1,n=4,split=train", "eval_data": "word_problems:level=1,n=2,split=test",
        "chat": False, "guard": "off"}  # fmt: skip
# What of the recipe a diagnosis takes too.
DIAGNOSED = ("data", "chat", "temperature", "num_generations", "max_completion_length", "dtype")
COURSE = ("step", "reward", "entropy", "completion_length", "step_seconds")
EVALUATION = ("eval/accuracy", "eval/entropy", "eval/completion_length", "eval/self_certainty", "eval/kl")


def steps(options: Options) -> list[Step]:
    """The diagnosis, then a run for each reward and seed, the first seed of all first."""
    seeds = range(min(SEEDS, options.repeats) if options.size == "full" else 1)
    return [Step("diagnosis", 120, partial(add_diagnosis, options))] + [
        Step(f"{reward}, seed {seed}", 330, partial(add_run, options, reward, seed))
        for seed in seeds
        for reward in REWARDS
    ]


def add_diagnosis(options: Options, results: dict[str, Any]) -> str:
    """Diagnose the model before any training, and add the outlook of each reward with its reason."""
    runs = begin(options, results)
    recipe, directory = results["recipe"], runs / "diagnosis"
    if not (directory / DIAGNOSIS_FILE).exists():
        asked = {name: recipe[name] for name in DIAGNOSED} | {"device": options.device, "output_dir": directory}
        asked |= {"model": options.model, "num_prompts": 64 if options.size == "full" else 2}
        rewards = [word for reward in REWARDS for word in ("--reward", reward)]
        run_rlif("diagnose", asked, *rewards, resume=(directory / CONFIG_FILE).exists())
    found = json.loads((directory / DIAGNOSIS_FILE).read_text(encoding="utf-8"))
    results["diagnosis"] = {name: found[name] for name in ("num_prompts", "num_generations", "accuracy", "measures")}
    results["diagnosis"]["rewards"] = {
        name: {key: each["verdict"][key] for key in ("outlook", "sureness", "reasons")}
        for name, each in found["rewards"].items()
    }
    return ", ".join(f"{name}: {each['outlook']}" for name, each in results["diagnosis"]["rewards"].items())


def add_run(options: Options, reward: str, seed: int, results: dict[str, Any]) -> str:
    """Train, and add the evaluations and the course of the reward to the entries."""
    runs = begin(options, results)
    run = runs / f"{reward}-seed-{seed}"
    found = run.with_suffix(".json")
    if not found.exists():
        asked = changes(options) | {"config": RECIPE, "model": options.model, "reward": reward, "seed": seed}
        asked |= {"output_dir": run, "device": options.device}
        seconds = run_rlif("train", asked, resume=(run / CONFIG_FILE).exists())
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        write_json(found, entry(reward, seed, seconds, rows))
    results["entries"].append(json.loads(found.read_text(encoding="utf-8")))
    first, last = (results["entries"][-1]["evaluations"][place]["eval/accuracy"] for place in (0, -1))
    return f"accuracy {first:.1%} to {last:.1%}"


def changes(options: Options) -> dict[str, Any]:
    """What every run has otherwise than the recipe."""
    changed: dict[str, Any] = {"guard": "warn", "dtype": dtype(options.device)}
    return changed | ({} if options.size == "full" else TINY)


def begin(options: Options, results: dict[str, Any]) -> Path:
    """Name the model and the recipe in the results, and return the directory of their runs.

    Runs of another recipe, or of another model of that name, are others.
    """
    assert options.model is not None  # as the command line sees to
    recipe = yaml.safe_load(RECIPE.read_text(encoding="utf-8")) | changes(options)
    results["model"], results["recipe"] = options.model.name, recipe
    return RUNS / f"{options.model.name}-{fingerprint([recipe, str(options.model.resolve())])[:8]}"


def run_rlif(name: str, asked: dict[str, Any], *more: str, resume: bool = False) -> float:
    """Run a command of `rlif` with options by their names, and return the seconds that it took."""
    command = [sys.executable, "-m", "rlif", name, *more]
    for option, value in asked.items():
        words = option.replace("_", "-")
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
    """That in which a step takes less time."""
    return "bfloat16" if device != "cpu" or multiplies_bfloat16() else "float32"
