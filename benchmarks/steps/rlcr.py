"""Suite `rlcr`: what a reward for stated confidence does to it on the built-in task, beside right answers alone.

The built-in base model has no words. It gets tokens for the tags, and is tuned on its teacher's solutions written
between them: the answer, as the analysis a question mark for each step that the teacher doubted, and a confidence drawn
at random. So the start model knows the form, and its confidence means nothing. From there it is trained on right
answers and the form (RLVR), on RLCR (arXiv 2507.16806), and on RLCR whose labels are majorities. The runs are kept in
runs/rlcr, by the settings, and go on from there: what is finished is not made again.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from benchmarks.runner import Options, Step
from benchmarks.steps.kept_runs import START, evaluated, run_directory, start_and_runs, trained
from rlif.answers.tags import has_form
from rlif.demo.options import DemoConfig
from rlif.evaluation.completions import VERBALIZED
from rlif.evaluation.measure import Evaluation
from rlif.files.directories import is_whole, write_directory
from rlif.files.fingerprint import fingerprint
from rlif.files.json_values import without_nan, write_json
from rlif.models.language_model import load_language_model
from rlif.options.record import CONFIG_FILE
from rlif.tasks.arithmetic import completion_length, teacher_solutions
from rlif.tasks.built_in_models import pretrained_base
from rlif.tasks.pretraining import learn_solutions
from rlif.training.options import TrainConfig

RUNS = Path("runs") / "rlcr"
# What a run is rewarded for: right answers alone for the form as well, which is soon forgotten otherwise.
TRAINED: dict[str, tuple[str, ...]] = {
    "RLVR": ("verifiable=0.5", "benchmarks.steps.rlcr:tagged=0.5"),
    "RLCR": ("rlcr",),
    "RLCR, by majority": ("rlcr_majority",),
}
# One token each, as the task's answer marker is. The point is for the confidence.
TAGS = ("</think>", "<answer>", "</answer>", "<analysis>", "</analysis>", "<confidence>", "</confidence>", ".")
# Tokens of the form and its confidence, and of an analysis with a mark for each step of a long solution.
TAG_TOKENS = 24
# Confidences are 0.0, 0.1, … 1.0.
LEVELS = 10
# Steps of tuning, steps of a run, prompts in a step, held-out problems, solutions of each.
SIZES = {"full": (400, 100, 32, 256, 8), "quick": (300, 60, 32, 64, 8), "tiny": (3, 2, 4, 6, 2)}
TUNING_BATCH_SIZE = 64
TUNING_RATE = 1e-3
LEARNING_RATE = 2e-4
SEEDS = 3


def steps(options: Options) -> list[Step]:
    """The start, then each run."""
    return start_and_runs(options, TRAINED, SEEDS, add_start, add_run, seconds=(60, 90))


def add_start(options: Options, results: dict[str, Any]) -> str:
    """Make the start model, and measure it."""
    runs = begin(options, results)
    found = runs / f"{START}.json"
    if not found.exists():
        held_out = measured(options, start_model(options, runs), runs / START)
        write_json(found, {"run": START, "seed": None, "held_out": held_out})
    return added(found, results)


def add_run(options: Options, name: str, seed: int, results: dict[str, Any]) -> str:
    """Train and measure, and add what was found to the entries."""
    runs = begin(options, results)
    run = run_directory(runs, name, seed)
    found = run.with_suffix(".json")
    if not found.exists():
        model = trained(train_config(options, name, seed, run), demo_config(seed).base.task)
        write_json(found, {"run": name, "seed": seed, "held_out": measured(options, model, run)})
    return added(found, results)


def start_model(options: Options, runs: Path) -> Path:
    """Return the directory of the model that knows the form; made once."""
    directory = runs / "start-model"
    if is_whole(directory):
        return directory
    demo, (tuning_steps, *_) = demo_config(0), SIZES[options.size]
    base = load_language_model(str(pretrained_base(demo.base)), device="cpu", dtype="float32")
    base.tokenizer.add_tokens(list(TAGS))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        base.model.resize_token_embeddings(len(base.tokenizer))
    learn_solutions(
        base.model,
        base.tokenizer,
        islice(tagged_solutions(demo), tuning_steps * TUNING_BATCH_SIZE),
        batch_size=TUNING_BATCH_SIZE,
        steps=tuning_steps,
        learning_rate=TUNING_RATE,
        label_smoothing=demo.base.label_smoothing,
        title="Tuning on the form",
        console=None,
    )

    def write(unfinished: Path) -> None:
        base.model.save_pretrained(unfinished)
        base.tokenizer.save_pretrained(unfinished)

    write_directory(directory, write)
    return directory


def tagged_solutions(demo: DemoConfig) -> Iterator[tuple[str, str]]:
    """Yield (prompt, teacher's solution between tags), each with a confidence that has nothing to do with it."""
    rng = random.Random(0)
    for prompt, solution in teacher_solutions(demo.base.task, 1):
        worked, answer = solution.split("#### ")
        yield (
            prompt,
            f"{worked}</think><answer>{answer}</answer><analysis>{'?' * worked.count('?')}</analysis>"
            f"<confidence>{rng.randint(0, LEVELS) / LEVELS:.1f}</confidence>",
        )


def tagged(completions: list[str]) -> list[float]:
    """Reward the form: 1 for tags that stand as they should, with a confidence from 0 to 1."""
    return [float(has_form(text)) for text in completions]


def train_config(options: Options, name: str, seed: int, run: Path) -> TrainConfig:
    """Return the configuration of a run, which goes on if it was begun: as the authors train, without a KL term."""
    _, max_steps, prompts_per_step, *_ = SIZES[options.size]
    return TrainConfig(
        model=str(start_model(options, run.parent)),
        data=str(run.parent / f"train-{seed}.jsonl"),
        reward=TRAINED[name],
        output_dir=run,
        max_steps=max_steps,
        prompts_per_step=prompts_per_step,
        max_completion_length=max_completion_length(),
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        warmup_ratio=0.05,
        scale_rewards="none",
        beta=0.0,
        guard="off",
        seed=seed,
        device=options.device,
        resume=(run / CONFIG_FILE).exists(),
    )


def measured(options: Options, model: Path, run: Path) -> dict[str, Any]:
    """Let a model solve held-out problems and state its confidence."""
    *_, num_prompts, num_generations = SIZES[options.size]
    found = evaluated(
        model,
        run,
        demo_config(0).base.task,
        num_prompts,
        num_generations=num_generations,
        max_completion_length=max_completion_length(),
        device=options.device,
    )
    return entry(found, num_generations)


def entry(found: Evaluation, num_generations: int) -> dict[str, Any]:
    """What is kept of an evaluation: shares with their standard errors, and the quality of the stated confidence."""
    kept = {
        "accuracy": f"average@{num_generations}",
        "majority": f"majority@{num_generations}",
        "weighted_majority": f"weighted-majority/{VERBALIZED}",
    }
    means = {name: found.selection[measure]._asdict() for name, measure in kept.items() if measure in found.selection}
    quality = found.scores.get(VERBALIZED)
    ece, brier = (quality and quality.as_is) or (None, None)
    stated = found.label_free.get("confidence_stated")
    return means | {
        "stated": stated.value if stated else 0.0,
        "confidence": found.label_free[VERBALIZED].value if quality else None,
        "ece": ece,
        "brier": brier,
        "auroc": without_nan(quality.auroc) if quality else None,
        "same_confidence": found.same_confidence,
    }


def demo_config(seed: int) -> DemoConfig:
    """Return where the model to start from and its task stand: as `rlif demo` has them."""
    return DemoConfig(seed=seed)


def max_completion_length() -> int:
    """Tokens of a solution of the base model's, and of the form."""
    return completion_length(demo_config(0).base.task) + TAG_TOKENS


def begin(options: Options, results: dict[str, Any]) -> Path:
    """Name the settings in the results, and return the directory of their runs; other settings have another."""
    names = ("tuning_steps", "max_steps", "prompts_per_step", "num_prompts", "num_generations")
    results["settings"] = dict(zip(names, SIZES[options.size], strict=True)) | {"learning_rate": LEARNING_RATE}
    key = fingerprint([results["settings"], TRAINED, TAGS, str(pretrained_base(demo_config(0).base))])[:8]
    (RUNS / key).mkdir(parents=True, exist_ok=True)
    return RUNS / key


def added(found: Path, results: dict[str, Any]) -> str:
    """Add what is in a file to the entries, and say it in a line."""
    results["entries"].append(json.loads(found.read_text(encoding="utf-8")))
    held_out = results["entries"][-1]["held_out"]
    if held_out["ece"] is None:
        return "no completion states an answer and a confidence"
    return f"{held_out['accuracy']['value']:.1%} right, ECE of the stated confidence {held_out['ece']:.3f}"
