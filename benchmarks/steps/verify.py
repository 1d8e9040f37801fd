"""Suite `verify`: what solving and verifying at once teaches on the built-in task, beside solving alone.

The built-in base model is trained to solve, and from the same start to solve and to verify (RISE, arXiv 2505.13445),
by gold answers and by the majority. Then each solves held-out problems, and verifies its own solutions and those of the
start: the fewer a model gets wrong, the harder are its own mistakes to tell, so that only solutions that all verify say
who verifies better. The runs are kept in runs/verify, by the settings, and go on from there: what is finished is not
made again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.runner import Options, Step
from benchmarks.steps.kept_runs import START, evaluated, run_directory, start_and_runs, trained, verified
from rlif.demo.options import DemoConfig
from rlif.evaluation.completions import VERIFICATION
from rlif.evaluation.measure import Evaluation
from rlif.files.fingerprint import fingerprint
from rlif.files.json_values import without_nan, write_json
from rlif.options.record import CONFIG_FILE
from rlif.tasks.arithmetic import VERIFY_RATINGS, VERIFY_TEMPLATE, completion_length
from rlif.tasks.built_in_models import pretrained_base
from rlif.training.options import TrainConfig

RUNS = Path("runs") / "verify"
# What each run is told beside the settings that all have in common.
TRAINED: dict[str, dict[str, Any]] = {
    "solve": {"reward": ("rise",)},
    "solve and verify": {"reward": ("rise",), "verify": True},
    "solve, by majority": {"reward": ("rise_majority",)},
    "solve and verify, by majority": {"reward": ("rise_majority",), "verify": True, "verify_labels": "majority"},
}
SEEDS = 3
# Steps of a run, prompts in a step, held-out problems, solutions of each, verifications of each solution.
SIZES = {"full": (120, 32, 256, 8, 4), "quick": (40, 16, 64, 8, 4), "tiny": (2, 4, 6, 4, 2)}
# Of the prompts of a step; the paper's eighth would be four solutions.
VERIFY_SHARE = 0.5
HOW: dict[str, Any] = {"verify_template": VERIFY_TEMPLATE, "verify_ratings": VERIFY_RATINGS}


def steps(options: Options) -> list[Step]:
    """The start, then each run."""
    return start_and_runs(options, TRAINED, SEEDS, add_start, add_run, seconds=(20, 180))


def add_start(options: Options, results: dict[str, Any]) -> str:
    """Measure the start."""
    runs = begin(options, results)
    found = runs / f"{START}.json"
    if not found.exists():
        model = pretrained_base(demo_config(0).base)
        held_out = measured(options, model, runs / START)
        write_json(found, {"run": START, "seed": None, "held_out": held_out, "of_the_start": held_out})
    return added(found, results)


def add_run(options: Options, name: str, seed: int, results: dict[str, Any]) -> str:
    """Train and measure, and add what was found to the entries."""
    runs = begin(options, results)
    run = run_directory(runs, name, seed)
    found = run.with_suffix(".json")
    if not found.exists():
        model = trained(train_config(options, name, seed, run), demo_config(seed).base.task)
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        write_json(
            found,
            {
                "run": name,
                "seed": seed,
                "seconds": sum(row["step_seconds"] for row in rows),
                "course": [course(row) for row in rows],
                "held_out": measured(options, model, run / "held-out"),
                "of_the_start": measured(options, model, run / "held-out", solved_by=runs / START),
            },
        )
    return added(found, results)


def train_config(options: Options, name: str, seed: int, run: Path) -> TrainConfig:
    """Return the configuration of a run, which goes on if it was begun."""
    demo, (max_steps, prompts_per_step, *_) = demo_config(seed), SIZES[options.size]
    return TrainConfig(
        model=str(pretrained_base(demo.base)),
        data=str(run.parent / f"train-{seed}.jsonl"),
        output_dir=run,
        max_steps=max_steps,
        prompts_per_step=prompts_per_step,
        max_completion_length=completion_length(demo.base.task),
        learning_rate=demo.learning_rate,
        lr_scheduler_type="constant",
        warmup_ratio=0.05,
        guard="off",
        seed=seed,
        device=options.device,
        resume=(run / CONFIG_FILE).exists(),
        verify_share=VERIFY_SHARE,
        **HOW,
        **TRAINED[name],
    )


def measured(options: Options, model: Path, scratch: Path, solved_by: Path | None = None) -> dict[str, Any]:
    """Let a model solve held-out problems and verify its own solutions, or those that `solved_by` has solved so."""
    demo, (*_, num_prompts, num_generations, num_verifications) = demo_config(0), SIZES[options.size]
    how: dict[str, Any] = HOW | {
        "num_generations": num_generations,
        "max_completion_length": completion_length(demo.base.task),
        "device": options.device,
        "verify_generations": num_verifications,
    }
    if solved_by is None:
        return entry(evaluated(model, scratch, demo.base.task, num_prompts, **how), num_generations)
    return entry(verified(model, scratch, solved_by, **how), num_generations)


def entry(found: Evaluation, num_generations: int) -> dict[str, Any]:
    """What is kept of an evaluation: shares with their standard errors."""
    kept = {
        "accuracy": f"average@{num_generations}",
        "majority": f"majority@{num_generations}",
        "weighted_majority": f"weighted-majority/{VERIFICATION}",
        "best_of": f"best-of-{num_generations}/{VERIFICATION}",
    }
    return {name: found.selection[measure]._asdict() for name, measure in kept.items()} | {
        "balanced_accuracy": found.verifying,
        "auroc": without_nan(found.scores[VERIFICATION].auroc),
        "auroc_within": without_nan(found.scores[VERIFICATION].auroc_within),
    }


def course(row: dict[str, float]) -> dict[str, float]:
    """What is kept of a step."""
    names = ("step", "accuracy", "verify/prompts", "verify/balanced_accuracy", "verify/auroc")
    return {name: row[name] for name in names if name in row}


def demo_config(seed: int) -> DemoConfig:
    """Return where the model to start from and the learning rate stand: as `rlif demo` has them."""
    return DemoConfig(seed=seed)


def begin(options: Options, results: dict[str, Any]) -> Path:
    """Name the settings in the results, and return the directory of their runs; other settings have another."""
    names = ("max_steps", "prompts_per_step", "num_prompts", "num_generations", "num_verifications")
    results["settings"] = dict(zip(names, SIZES[options.size], strict=True)) | {"verify_share": VERIFY_SHARE, **HOW}
    key = fingerprint([results["settings"], TRAINED, str(pretrained_base(demo_config(0).base))])[:8]
    (RUNS / key).mkdir(parents=True, exist_ok=True)
    return RUNS / key


def added(found: Path, results: dict[str, Any]) -> str:
    """Add what is in a file to the entries, and say it in a line."""
    results["entries"].append(json.loads(found.read_text(encoding="utf-8")))
    held_out = results["entries"][-1]["held_out"]
    verifying = held_out["balanced_accuracy"]
    shown = "not measured: all or none are right" if verifying is None else f"{verifying:.1%}"
    start = results["entries"][-1]["of_the_start"]["balanced_accuracy"]
    of_the_start = "" if start is None else f", the start's {start:.1%}"
    return f"solving {held_out['accuracy']['value']:.1%}, verifying its own {shown}{of_the_start}"
