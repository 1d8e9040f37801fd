"""Suite `explain`: does `rlif explain` name what a run was rewarded for, and when does that part from right answers?

The built-in base model is trained on self-certainty and on right answers as `rlif demo` trains it, and every checkpoint
is compared with the start on held-out problems.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.runner import Options, Step
from rlif.data.prompts import read_prompts
from rlif.demo.command import DEMO_REWARDS
from rlif.demo.options import DemoConfig
from rlif.explanation.measure import measure
from rlif.explanation.samples import sample_both
from rlif.models.language_model import load_language_model
from rlif.tasks.arithmetic import completion_length, write_jsonl
from rlif.tasks.built_in_models import pretrained_base
from rlif.training.loop import train
from rlif.training.options import TrainConfig

SEEDS = 3
# Steps of a run, those between checkpoints, problems to explain with, completions of each model.
SIZES = {"full": (60, 20, 128, 8), "quick": (40, 20, 32, 8), "tiny": (2, 1, 5, 2)}
KEPT = ("concordance", "against_right", "coefficient")


def steps(options: Options) -> list[Step]:
    """One for each reward and seed, the first seed of all first."""
    return [
        Step(f"{reward}, seed {seed}", 90, partial(add_run, options, reward, seed))
        for seed in range(min(SEEDS, options.repeats) if options.size == "full" else 1)
        for reward in DEMO_REWARDS
    ]


def add_run(options: Options, reward: str, seed: int, results: dict[str, Any]) -> str:
    """Train with a reward, explain every checkpoint, and add what was found to the entries."""
    max_steps, save_steps, num_prompts, num_generations = SIZES[options.size]
    demo = DemoConfig(seed=seed)
    task, start = demo.base.task, pretrained_base(demo.base)
    results |= {"num_prompts": num_prompts, "num_generations": num_generations}
    explained = []
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        write_jsonl(place / "train.jsonl", task, "train", max_steps * demo.prompts_per_step, seed)
        write_jsonl(place / "eval.jsonl", task, "eval", num_prompts, seed)
        train(
            TrainConfig(
                model=str(start),
                data=str(place / "train.jsonl"),
                reward=(reward,),
                output_dir=place / "run",
                max_steps=max_steps,
                save_steps=save_steps,
                prompts_per_step=demo.prompts_per_step if options.size != "tiny" else 2,
                max_completion_length=completion_length(task),
                learning_rate=demo.learning_rate,
                lr_scheduler_type="constant",
                warmup_ratio=0.05,
                guard="off",
                seed=seed,
                device=options.device,
            )
        )
        prompts = read_prompts(str(place / "eval.jsonl"))
        tuned = {step: place / "run" / f"checkpoint-{step}" for step in range(save_steps, max_steps, save_steps)}
        tuned[max_steps] = place / "run" / "model"
        for step, directory in tuned.items():
            samples = sample_both(
                load_language_model(str(start), device=options.device, dtype="float32"),
                load_language_model(str(directory), device=options.device, dtype="float32"),
                prompts,
                num_generations=num_generations,
                max_completion_length=completion_length(task),
                temperature=1.0,
                seed=seed,
            )
            explained.append(entry(step, measure(samples, seed=seed).to_json()))
    results["entries"].append({"reward": reward, "seed": seed, "steps": explained})
    return f"names {explained[0]['best']} at step {explained[0]['step']}, {explained[-1]['best']} at {max_steps}"


def entry(step: int, found: dict[str, Any]) -> dict[str, Any]:
    """What is kept of an explanation."""
    return {
        "step": step,
        "best": next(iter(found["scores"])),
        "kl": found["kl"],
        "accuracy": found["accuracy"],
        "explained": found["explained"],
        "told_apart": found["told_apart"],
        "parted": {
            name: {other: share["value"] for other, share in against.items()}
            for name, against in found["parted"].items()
        },
        "scores": {name: {key: score[key] for key in KEPT} for name, score in found["scores"].items()},
    }
