"""Suite `length-conditioned`: does a learned reward go by length, and less so when it learnt length instructions?

The start model is the built-in base model, tuned on the same teacher who now writes some steps twice, as often in right
solutions as in wrong ones. Of two solutions of a problem the one with the higher log-probability is preferred: a sum
over tokens, that longer solutions have less of. From such preferences DPO and a Bradley-Terry reward model are trained:
as they are; with comparisons between prompts (Rc-DPO and Rc-BT, arXiv 2502.00814); and, what is cheaper and ours, with
as many longer as shorter preferred solutions. Each reward is asked about held-out solutions. The runs are kept in
runs/length-conditioned, by the settings, and go on from there: what is finished is not made again.
"""

from __future__ import annotations

import itertools
import json
import math
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
from rlif.files.json_values import write_json
from rlif.files.jsonl import Row, read_rows, write_rows
from rlif.models.language_model import load_language_model, load_with_options
from rlif.self_feedback.command import held_out_samples
from rlif.self_feedback.command import run as run_self_feedback
from rlif.self_feedback.length_prompts import (
    DIRECTIONS,
    balanced_pairs,
    draw_instruction,
    longer_chosen,
    pair_lengths,
    with_instruction,
)
from rlif.self_feedback.length_report import held_out, measure_length
from rlif.self_feedback.length_rewards import instructed_sequences, learned_model, learned_rewards
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
from rlif.self_feedback.prompts import held_out_prompts
from rlif.tasks.arithmetic import (
    LENGTH_INSTRUCTIONS,
    ArithmeticConfig,
    Split,
    completion_length,
    teacher_solutions,
    write_jsonl,
)
from rlif.tasks.built_in_models import pretrained_base
from rlif.tasks.options import BaseModelConfig
from rlif.tasks.pretraining import learn_solutions

RUNS = Path("runs") / "length-conditioned"
SEEDS = 3
# Steps of tuning, prompts to sample for, completions of each, held-out prompts, completions of each.
SIZES = {"full": (300, 64, 8, 64, 8), "quick": (300, 64, 8, 64, 8), "tiny": (2, 6, 4, 4, 4)}
# Solutions of a batch of tuning, and its learning rate.
BATCH_SIZE, LEARNING_RATE = 64, 2e-3
# Of a solution's steps, how many are written twice; each solution has one of these.
TWICE = (0.0, 0.5, 1.0)
# Of the prompts, how many have a length instruction, which the solution keeps.
INSTRUCTED = 0.5
# Of a problem, on average.
PAIRS = 6
# Times that each pair is learned from, and by which learning rate; a reward model begins with a random head.
EPOCHS = 3
OBJECTIVES: dict[ObjectiveName, float] = {"reward_model": 1e-3, "dpo": 1e-4}
# What each training is told of lengths, beside its preferences.
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "conditioned": {"length_conditioned": True},
    "balanced": {},
}
# The score that prefers, of a whole solution.
SCORE = "sequence_logprob"
HELD_OUT = ("measure-start.jsonl", "measure-start.settings.json")


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
    """Yield an endless stream of (prompt, teacher's solution) in which a share of the steps is written twice.

    Half of the prompts ask for a length, which the solution keeps: the start model then knows what an instruction says,
    as the paper's models do, before preferences teach it what one is worth.
    """
    draw = random.Random(f"twice {seed}")
    for prompt, solution in teacher_solutions(task, seed):
        *written, answer = solution.split("\n")
        share = draw.choice(TWICE)
        lines = [line for step in written for line in ([step] * (2 if draw.random() < share else 1))]
        solution = "\n".join([*lines, answer])
        if draw.random() < INSTRUCTED:
            length, direction = len(solution) + 1, draw.choice(DIRECTIONS)  # a token for each character, and the end
            instruction = draw_instruction(length, direction, kept=True, draw=draw)
            prompt = with_instruction(prompt, instruction, LENGTH_INSTRUCTIONS)
        yield prompt, solution


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
    """Sample, prefer by the log-probability, and add how the preferences go with length."""
    directory = begin(options, results) / f"samples-{seed}"
    run_self_feedback(config_of(options, seed, directory, "sample"))
    pairs = preferences([with_logprobs(row) for row in read_rows(directory / "samples.jsonl")])
    lengths = pair_lengths(pairs, ids_of(pairs), "tokens")
    wanted = min(len(pairs), PAIRS * SIZES[options.size][1])
    draw = random.Random(f"pairs {seed}")
    drawn = {"plain": draw.sample(range(len(pairs)), wanted)}
    even = balanced_pairs(lengths, seed)
    drawn["balanced"] = draw.sample(even, min(len(even), wanted))
    for name, places in drawn.items():
        write_rows(directory / f"{name}.jsonl", [pairs[place] for place in places])
    shares = {name: longer_chosen([lengths[place] for place in places]) for name, places in drawn.items()}
    counts = {name: len(places) for name, places in drawn.items()}
    results["entries"].append({"seed": seed, "objective": "", "pairs": counts, "longer_chosen": shares})
    return f"pairs {counts}, with the longer one chosen {shares}"


def with_logprobs(row: Row) -> Row:
    """Return a row of samples with the log-probability of each whole solution among its scores."""
    completions = []
    for each in row["completions"]:
        # The span is the whole solution, of which this is the geometric mean.
        logprob = len(each["ids"]) * math.log(max(each["confidence"]["inverse_perplexity"], 1e-30))
        completions.append(each | {"confidence": each["confidence"] | {SCORE: logprob}})
    return row | {"completions": completions}


def preferences(rows: list[Row]) -> list[Row]:
    """Return all pairs of unlike completions of a problem, the likelier one chosen."""
    pairs = []
    for row in rows:
        distinct = {tuple(each["ids"]): each for each in row["completions"]}.values()
        for two in itertools.combinations(distinct, 2):
            rejected, chosen = sorted(two, key=lambda each: float(each["confidence"][SCORE]))
            pairs.append(
                {"prompt": row["prompt"], "prompt_ids": row["prompt_ids"]}
                | {"chosen": chosen["text"], "rejected": rejected["text"]}
                | {"chosen_ids": chosen["ids"], "rejected_ids": rejected["ids"]}
            )
    return pairs


def ids_of(pairs: list[Row]) -> list[tuple[list[int], list[int]]]:
    """Return the ids of each pair's completions."""
    return [(pair["chosen_ids"], pair["rejected_ids"]) for pair in pairs]


def add_training(options: Options, seed: int, objective: ObjectiveName, variant: str, results: dict[str, Any]) -> str:
    """Train, ask about held-out solutions, and add what was found to the entries."""
    runs = begin(options, results)
    directory, samples = runs / f"{objective}-{variant}-{seed}", runs / f"samples-{seed}"
    found = directory / "found.json"
    if not found.exists():
        directory.mkdir(exist_ok=True)
        config = config_of(options, seed, directory, "train", objective=objective, variant=variant).resolved()
        run_self_feedback(config)
        for name in HELD_OUT:  # they are of the seed, whatever was trained
            if not (directory / name).exists() and (samples / name).exists():
                shutil.copy(samples / name, directory)
        report = measured(config)
        for name in HELD_OUT:
            shutil.copy(directory / name, samples)
        metrics = read_rows(directory / f"train-{objective}" / "metrics.jsonl")
        course = {"steps": len(metrics), "last_loss": metrics[-1]["loss"], "last_accuracy": metrics[-1]["accuracy"]}
        write_json(found, {"seed": seed, "variant": variant, **course, **report})
    entry = json.loads(found.read_text(encoding="utf-8"))
    results["entries"].append(entry)
    reward = entry["scores"]["reward"]
    return (
        f"correlation {reward['correlation']['value']}, among equally right ones "
        f"{reward['correlation_equally_right']['value']}, matched {reward['accuracy']['matched']['value']}, "
        f"length accuracy {entry['length_accuracy']['both']['value']}"
    )


def measured(config: SelfFeedbackConfig) -> dict[str, Any]:
    """Do as the stage `length` does, with the score that preferred."""
    start = load_with_options(config, str(config.model))
    rows = [with_logprobs(row) for row in held_out_samples(config, "start model", start, held_out_prompts(config))]
    samples = held_out(rows, unit="tokens", confidence=SCORE, seed=config.seed)
    sequences = instructed_sequences(rows, samples.instructions, start, config)
    rewards = learned_rewards(config, start, learned_model(config), sequences).reshape(*samples.lengths.shape, 3)
    return measure_length(samples, rewards, objective=config.train.objective, unit="tokens").to_json()


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
    samples = directory.parent / f"samples-{seed}"
    return SelfFeedbackConfig(
        stage=stage,
        model=str(directory.parent / "start"),
        data=str(data["train"]),
        eval_data=str(data["eval"]),
        preferences=samples / ("balanced.jsonl" if variant == "balanced" else "plain.jsonl"),
        output_dir=directory,
        seed=seed,
        device=options.device,
        sample=SampleOptions(
            num_generations=num_generations,
            max_completion_length=2 * completion_length(task),
            sampling=known["sampling"],
            answer_span=known["answer_span"],
        ),
        rank=RankOptions(confidence=known["confidence"]),
        train=TrainOptions(
            objective=objective,
            learning_rate=OBJECTIVES[objective],
            beta=known["beta"],
            num_train_epochs=EPOCHS,
            use_margin=False,
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
    results["settings"] = dict(zip(names, SIZES[options.size], strict=True)) | {
        "twice": TWICE,
        "instructed": INSTRUCTED,
        "pairs": PAIRS,
        "epochs": EPOCHS,
        "learning_rates": OBJECTIVES,
        "tuning_rate": LEARNING_RATE,
    }
    key = fingerprint([results["settings"], VARIANTS, str(pretrained_base(base_config()))])[:8]
    (RUNS / key).mkdir(parents=True, exist_ok=True)
    return RUNS / key
