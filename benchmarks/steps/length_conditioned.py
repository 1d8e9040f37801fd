"""Suite `length-conditioned`: does a learned reward go by length, and less so when it learnt length instructions?

The start model is the built-in base model, tuned on the same teacher who now writes some steps twice, as often in right
solutions as in wrong ones. A step's repetition is sure, so that longer solutions have the higher mean log-probability:
confidence prefers them, and from preferences by confidence a reward can learn length. From the same preferences DPO and
a Bradley-Terry reward model are trained: as they are; with comparisons between prompts (Rc-DPO and Rc-BT, arXiv
2502.00814); and, what is cheaper and ours, with as many longer as shorter chosen solutions. Each reward is asked about
held-out solutions. The runs are kept in runs/length-conditioned, by the settings, and go
on from there: what is finished is not made again.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.runner import Options, Step
from rlif.demo.options import DemoConfig
from rlif.files.directories import is_whole, write_directory
from rlif.files.fingerprint import fingerprint
from rlif.models.language_model import load_language_model
from rlif.self_feedback.command import run as run_self_feedback
from rlif.self_feedback.options import (
    BUILT_IN,
    LengthOptions,
    MeasureOptions,
    ObjectiveName,
    RankOptions,
    SampleOptions,
    SelfFeedbackConfig,
    Stage,
    TrainOptions,
)
from rlif.tasks.arithmetic import ArithmeticConfig, Split, completion_length, teacher_solutions, write_jsonl
from rlif.tasks.built_in_models import pretrained_base
from rlif.tasks.options import BaseModelConfig
from rlif.tasks.pretraining import learn_solutions

RUNS = Path("runs") / "length-conditioned"
SEEDS = 3
# Steps of tuning, prompts to sample for, completions of each, held-out prompts, completions of each.
SIZES = {"full": (300, 128, 8, 128, 8), "quick": (200, 48, 8, 64, 8), "tiny": (2, 6, 4, 4, 4)}
# Solutions of a batch of tuning, and its learning rate, that of the instruct-like model.
BATCH_SIZE, LEARNING_RATE = 64, 1e-3
# Of a solution's steps, how many are written twice; each solution has one of these.
TWICE = (0.0, 0.5, 1.0)
OBJECTIVES: tuple[ObjectiveName, ...] = ("reward_model", "dpo")
# What each training is told of lengths.
VARIANTS: dict[str, dict[str, bool]] = {
    "plain": {},
    "conditioned": {"length_conditioned": True},
    "balanced": {"length_balanced": True},
}
# Least confidence of a chosen solution.
THRESHOLD = 0.9
# Of each training.
STAGES: tuple[Stage, ...] = ("rank", "train", "length")
# What every training of a seed has in common with the sampling.
SHARED = ("samples.jsonl", "samples.settings.json", "config.yaml", "measure-start.jsonl", "measure-start.settings.json")


def steps(options: Options) -> list[Step]:
    """The start model, then for each seed its samples and every training; of a quick run one seed."""
    seeds = range(min(SEEDS, options.repeats) if options.size == "full" else 1)
    found = [Step("start model", 60, partial(add_start, options))]
    for seed in seeds:
        found.append(Step(f"samples, seed {seed}", 60, partial(add_samples, options, seed)))
        for objective in OBJECTIVES:
            for variant in VARIANTS:
                run = partial(add_training, options, seed, objective, variant)
                found.append(Step(f"{objective}, {variant}, seed {seed}", 60, run))
    return found


def twice_written(task: ArithmeticConfig, seed: int) -> Iterator[tuple[str, str]]:
    """Yield an endless stream of (prompt, teacher's solution) in which a share of the steps is written twice."""
    draw = random.Random(f"twice {seed}")
    for prompt, solution in teacher_solutions(task, seed):
        *written, answer = solution.split("\n")
        share = draw.choice(TWICE)
        lines = [line for step in written for line in ([step] * (2 if draw.random() < share else 1))]
        yield prompt, "\n".join([*lines, answer])


def add_start(options: Options, results: dict[str, Any]) -> str:
    """Tune the start model, if it is not there."""
    runs = begin(options, results)
    if is_whole(runs / "start"):
        return "it is there"
    task = base_config().task
    start = load_language_model(str(pretrained_base(base_config())), device="cpu", dtype="float32")
    learn_solutions(
        start.model,
        start.tokenizer,
        islice(twice_written(task, seed=1), SIZES[options.size][0] * BATCH_SIZE),
        batch_size=BATCH_SIZE,
        steps=SIZES[options.size][0],
        learning_rate=LEARNING_RATE,
        label_smoothing=base_config().label_smoothing,
        title="Tuning the start model",
        console=None,
    )
    write_directory(runs / "start", start.save)
    return "tuned"


def add_samples(options: Options, seed: int, results: dict[str, Any]) -> str:
    """Sample and rank, and add how the preferences go with length."""
    directory = begin(options, results) / f"samples-{seed}"
    stages: tuple[Stage, ...] = ("sample", "rank")
    for stage in stages:
        run_self_feedback(config_of(options, seed, directory, stage, variant="conditioned"))
    ranking = json.loads((directory / "ranking.json").read_text(encoding="utf-8"))
    kept = {name: ranking[name] for name in ("pairs", "pair_accuracy", "longer_chosen")}
    results["entries"].append({"seed": seed, "objective": "", **kept})
    return f"{ranking['pairs']} pairs, share with the longer one chosen {ranking['longer_chosen']}"


def add_training(options: Options, seed: int, objective: ObjectiveName, variant: str, results: dict[str, Any]) -> str:
    """Train, ask about held-out solutions, and add what was found to the entries."""
    runs = begin(options, results)
    directory, samples = runs / f"{objective}-{variant}-{seed}", runs / f"samples-{seed}"
    found = directory / "length.json"
    if not found.exists():
        directory.mkdir(exist_ok=True)
        for name in SHARED:
            if not (directory / name).exists() and (samples / name).exists():
                shutil.copy(samples / name, directory)
        for stage in STAGES:
            run_self_feedback(config_of(options, seed, directory, stage, objective=objective, variant=variant))
        for name in SHARED:
            if name.startswith("measure-start"):  # held-out solutions are of the seed, whatever was trained
                shutil.copy(directory / name, samples)
    report = json.loads(found.read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in (directory / f"train-{objective}" / "metrics.jsonl").read_text().splitlines()]
    course = {"steps": len(rows), "last_loss": rows[-1]["loss"], "last_accuracy": rows[-1]["accuracy"]}
    results["entries"].append({"seed": seed, "variant": variant, **course, **report})
    reward = report["scores"]["reward"]
    return (
        f"correlation {reward['correlation']['value']:.2f}, among equally right ones "
        f"{reward['correlation_equally_right']['value']:.2f}, matched {reward['accuracy']['matched']['value']}, "
        f"length accuracy {report['length_accuracy']['both']['value']:.1%}"
    )


def config_of(
    options: Options,
    seed: int,
    directory: Path,
    stage: Stage,
    *,
    objective: ObjectiveName = "dpo",
    variant: str = "plain",
) -> SelfFeedbackConfig:
    """Return the configuration of a stage: the built-in model's, of the start model that is not built in."""
    _, num_prompts, num_generations, num_held_out, eval_generations = SIZES[options.size]
    task = base_config().task
    counts: dict[Split, int] = {"train": num_prompts, "eval": num_held_out}
    data = {split: directory.parent / f"{split}-{seed}.jsonl" for split in counts}
    for split, count in counts.items():
        if not data[split].exists():
            write_jsonl(data[split], task, split, count, seed)
    known: dict[str, Any] = BUILT_IN
    return SelfFeedbackConfig(
        stage=stage,
        model=str(directory.parent / "start"),
        data=str(data["train"]),
        eval_data=str(data["eval"]),
        output_dir=directory,
        seed=seed,
        device=options.device,
        sample=SampleOptions(
            num_generations=num_generations,
            max_completion_length=2 * completion_length(task),
            sampling=known["sampling"],
            answer_span=known["answer_span"],
        ),
        rank=RankOptions(confidence=known["confidence"], threshold=THRESHOLD),
        train=TrainOptions(
            objective=objective, learning_rate=known["learning_rate"], beta=known["beta"], num_train_epochs=1
        ),
        length=LengthOptions(
            length_unit=known["length_unit"], length_instructions=known["length_instructions"], **VARIANTS[variant]
        ),
        measure=MeasureOptions(eval_generations=eval_generations),
    )


def base_config() -> BaseModelConfig:
    """Return the built-in base model's configuration, which `rlif demo` starts from."""
    return DemoConfig().base


def begin(options: Options, results: dict[str, Any]) -> Path:
    """Name the settings in the results, and return the directory of their runs; other settings have another."""
    names = ("tuning_steps", "num_prompts", "num_generations", "held_out", "eval_generations")
    results["settings"] = dict(zip(names, SIZES[options.size], strict=True)) | {"twice": TWICE}
    key = fingerprint([results["settings"], str(pretrained_base(base_config()))])[:8]
    (RUNS / key).mkdir(parents=True, exist_ok=True)
    return RUNS / key
