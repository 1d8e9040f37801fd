"""Suite `guard`: where the start model is sure of a misconception, does the guard see that right answers unlearn it?

The lab's instruct-like model is trained on right answers, as the lab does, with the guard only watching. Its
evaluations are shown to a guard that goes by gold answers, as that of such a run does, and to one that goes by the
start model's majority answers. The policies that each would have kept solve test problems that no run has seen. One
more run asks whether verification (arXiv 2505.13445) could take the place of gold answers: it learns to verify as well.
The runs are kept in runs/guard, by the settings, and what is finished is not made again.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console

from benchmarks.report.guard import RIGHT, VERIFY
from benchmarks.runner import Options, Step
from benchmarks.steps.kept_runs import run_directory
from rlif.files.directories import is_whole, write_directory
from rlif.files.fingerprint import fingerprint
from rlif.files.json_values import write_json
from rlif.lab.command import make_starts
from rlif.lab.options import FULL, LabConfig, Size
from rlif.lab.plan import BASELINE_REWARD, LEARNING_RATE, PROMPTS_PER_STEP, Trial
from rlif.lab.trials import look_at_policy, trial_config, write_data
from rlif.options.record import CONFIG_FILE
from rlif.tasks.arithmetic import VERIFY_RATINGS, VERIFY_TEMPLATE, completion_length
from rlif.training.evidence import GOLD
from rlif.training.guard import Guard
from rlif.training.loop import TrainResult, train
from rlif.training.options import TrainConfig

RUNS = Path("runs") / "guard"
INSTRUCT = 1.0
# What each run is told beside the settings that both have in common.
TRAINED: dict[str, dict[str, Any]] = {
    RIGHT: {},
    VERIFY: {
        "verify": True,
        "verify_share": 1.0,
        "verify_template": VERIFY_TEMPLATE,
        "verify_ratings": VERIFY_RATINGS,
    },
}
# What is kept of each evaluation.
COURSE = ("accuracy", "consensus", "agreement")
# The lab's, evaluated half as often, on fewer problems.
SIZES = {
    "full": replace(FULL, eval_steps=10, eval_prompts=200),
    "quick": Size(max_steps=40, eval_steps=10, guard_prompts=96, eval_prompts=120, test_prompts=128),
    "tiny": Size(max_steps=2, eval_steps=1, guard_prompts=4, eval_prompts=6, test_prompts=4),
}


def steps(options: Options) -> list[Step]:
    """All seeds of the run on right answers, then one that learns to verify as well."""
    runs = [(RIGHT, seed) for seed in range(options.repeats if options.size == "full" else 1)] + [(VERIFY, 0)]
    return [Step(f"{name}, seed {seed}", 150, partial(add_run, options, name, seed)) for name, seed in runs]


def add_run(options: Options, name: str, seed: int, results: dict[str, Any]) -> str:
    """Train, show the evaluations to both guards, and add what they kept to the entries."""
    size, config = SIZES[options.size], LabConfig()
    results["settings"] = asdict(size) | {"prompts_per_step": PROMPTS_PER_STEP, "learning_rate": LEARNING_RATE}
    key = fingerprint([results["settings"], TRAINED, asdict(config.base), asdict(config.instruct)])[:8]
    directory = RUNS / key
    directory.mkdir(parents=True, exist_ok=True)
    found = run_directory(directory, name, seed).with_suffix(".json")
    if not found.exists():
        make_starts(directory / "starts", config, [INSTRUCT], Console(stderr=True))
        data = directory / "data"
        if not is_whole(data):
            write_directory(data, partial(write_data, task=config.base.task, size=size, seeds=options.repeats))
        run = train_config(directory, size, config, name, seed)
        assert run.output_dir is not None
        write_json(found, {"run": name, "seed": seed} | kept(train(run), run.model, data / "test.jsonl", config))
        shutil.rmtree(run.output_dir)
    entry = json.loads(found.read_text(encoding="utf-8"))
    results["entries"].append(entry)
    gold, majority = entry["guards"]["gold"], entry["guards"]["majority"]
    return (
        f"{entry['accuracy']['0']:.1%} at the start; kept by gold answers step {gold['step']}, by majorities step "
        f"{majority['step']}"
    )


def train_config(directory: Path, size: Size, config: LabConfig, name: str, seed: int) -> TrainConfig:
    """Return the configuration of a run: a trial of the lab's, guarded by gold answers; it goes on if it was begun."""
    run = run_directory(directory, name, seed)
    return replace(
        trial_config(directory, size, Trial(seed, INSTRUCT, BASELINE_REWARD), config.base.task),
        output_dir=run,
        guard_labels="gold",
        save_steps=size.eval_steps,
        resume=(run / CONFIG_FILE).exists(),
        **TRAINED[name],
    )


def kept(result: TrainResult, start: str, test: Path, config: LabConfig) -> dict[str, Any]:
    """What each guard says and keeps, how right that is on test problems, and what the run came to."""
    evaluations = [row for row in result.rows if "eval/kl" in row]
    guards = {"gold": seen_by(evaluations), "majority": seen_by([without_gold(row) for row in evaluations])}
    policies = {0: Path(start), result.last_step: result.run_dir / "model"}
    for found in guards.values():
        policies.setdefault(found["step"], result.run_dir / f"checkpoint-{found['step']}")
    length = completion_length(config.base.task)
    # Of a step whose verifications state no rating it is NaN.
    verifying = [row for row in result.rows if not math.isnan(row.get("verify/balanced_accuracy", math.nan))]
    return {
        "guards": guards,
        "last_step": result.last_step,
        "accuracy": {
            str(step): float(look_at_policy(path, test, length)["correct"].mean()) for step, path in policies.items()
        },
        "course": [
            {"step": row["step"]} | {name: row[f"eval/{name}"] for name in COURSE if f"eval/{name}" in row}
            for row in evaluations
        ],
        "verifying": {
            name: fmean(row[f"verify/{name}"] for row in verifying)
            for name in ("balanced_accuracy", "frac_reward_zero_std", "parse_rate")
        }
        if verifying
        else None,
    }


def seen_by(evaluations: list[dict[str, float]]) -> dict[str, Any]:
    """Show evaluations to a guard: the step of the policy that it keeps, and its first warning with its step."""
    guard = Guard(TrainConfig.guard_patience)
    found: dict[str, Any] = {"warning": None, "warned_at": None}
    for row in evaluations:
        metrics = {name.removeprefix("eval/"): value for name, value in row.items() if name.startswith("eval/")}
        warning = guard.observe(int(row["step"]), metrics)
        if warning is not None and found["warning"] is None:
            found |= {"warning": warning, "warned_at": int(row["step"])}
    return found | {"step": 0 if guard.best is None else guard.best.step}


def without_gold(row: dict[str, float]) -> dict[str, float]:
    """An evaluation as a guard sees it that does not go by gold answers."""
    return {name: value for name, value in row.items() if name != f"eval/{GOLD.prompts}"}
