"""Suite `collapse`: does the step at which internal rewards collapse tell what a model gains, and are small sets safe?

The collapse step is that of the guard (`rlif.training.guard`), which is what `rlif diagnose --steps` reports. The lab's
published runs have it for five start models and every internal reward, and the gain from right answers of two of these
models. This suite trains the other three on right answers, as the lab does, and the base model on self-certainty with
few prompts instead of a fresh one each time. The runs are kept in runs/collapse, by the settings: what is finished is
not made again.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.report.collapse import entry, lab_entries
from benchmarks.runner import Options, Step
from rlif.files.directories import is_whole, write_directory
from rlif.files.fingerprint import fingerprint
from rlif.files.jsonl import read_rows, write_rows
from rlif.lab.command import make_starts
from rlif.lab.findings import TrialResult
from rlif.lab.options import FULL, LabConfig, Size
from rlif.lab.plan import BASELINE_REWARD, PROMPTS_PER_STEP, RATIOS, Trial, start_name
from rlif.lab.trials import RESULT, read_result, run_trial, write_data

LAB = Path(__file__).parents[1] / "results" / "lab" / "lab.json"
RUNS = Path("runs") / "collapse"
# As the lab's, evaluated no more often than is needed: of a gain its start and end, of a collapse its step.
LAB_SIZES = {
    "full": (replace(FULL, eval_steps=40, test_prompts=16), replace(FULL, eval_steps=10, test_prompts=16)),
    "quick": 2 * (Size(max_steps=40, eval_steps=10, guard_prompts=96, eval_prompts=96, test_prompts=16),),
    "tiny": 2 * (Size(max_steps=2, eval_steps=1, guard_prompts=4, eval_prompts=4, test_prompts=4),),
}
# What the lab has no run of.
MIXES = RATIOS[1:-1]
FEW = (32, 128)
FEW_REWARD = "self_certainty"


def steps(options: Options) -> list[Step]:
    """The lab's runs first, then those that it lacks: of each seed all before the next one's."""
    seeds = range(options.repeats if options.size == "full" else 1)
    return [Step("the lab's runs", 1, partial(add_lab, options))] + [
        step
        for seed in seeds
        for step in (
            *(
                Step(f"{start_name(ratio)} on right answers, seed {seed}", 60, partial(add_gain, options, ratio, seed))
                for ratio in MIXES
            ),
            *(Step(f"{count} prompts, seed {seed}", 90, partial(add_few, options, count, seed)) for count in FEW),
        )
    ]


def add_lab(options: Options, results: dict[str, Any]) -> str:
    """Add what the lab's published runs came to."""
    lab = json.loads(LAB.read_text(encoding="utf-8"))
    sizes = dict(zip(("gain", "few"), map(asdict, LAB_SIZES[options.size]), strict=True))
    steps = {"prompts_per_step": PROMPTS_PER_STEP, "lab_steps": lab["size"]["max_steps"]}
    results["settings"] = steps | sizes
    results["entries"] += lab_entries(lab)
    return f"{len(results['entries'])} runs of {LAB.name}"


def add_gain(options: Options, ratio: float, seed: int, results: dict[str, Any]) -> str:
    """Train a mix of the lab's models on right answers."""
    size, _ = LAB_SIZES[options.size]
    return added(trained(size, "gain", Trial(seed, ratio, BASELINE_REWARD)), results, "gain")


def add_few(options: Options, count: int, seed: int, results: dict[str, Any]) -> str:
    """Train the base model on self-certainty with the first few of the seed's prompts, again and again."""
    _, size = LAB_SIZES[options.size]
    trial = Trial(seed, 0.0, FEW_REWARD)
    return added(trained(size, f"few-{count}", trial, count), results, "few", prompts=count)


def trained(size: Size, name: str, trial: Trial, num_prompts: int | None = None) -> TrialResult:
    """Run a trial as the lab runs it, in a directory of that name; return its result, or that of before."""
    config = LabConfig()
    key = fingerprint([asdict(size), asdict(config.base), asdict(config.instruct)])[:8]
    directory = RUNS / key / f"{name}-seed-{trial.seed}"
    directory.mkdir(parents=True, exist_ok=True)
    result = directory / "runs" / trial.name / RESULT
    if result.exists():
        return read_result(result)
    make_starts(directory / "starts", config, [trial.ratio], Console(stderr=True))
    if not is_whole(directory / "data"):

        def write(data: Path) -> None:
            write_data(data, config.base.task, size, trial.seed + 1)
            for path in data.glob("train-*.jsonl"):
                write_rows(path, read_rows(path)[:num_prompts])

        write_directory(directory / "data", write)
    run_trial(directory, size, trial, config.base.task)
    return read_result(result)


def added(result: TrialResult, results: dict[str, Any], kind: str, **more: int) -> str:
    """Add a trial to the entries, and say it in a line."""
    found = entry(result, kind, **more)
    results["entries"].append(found)
    start, last = (found["accuracy"][name] for name in ("start", "last"))
    step = found["collapse_step"]
    return f"{start:.1%} to {last:.1%}, {'no collapse' if step is None else f'collapse step {step}'}"
