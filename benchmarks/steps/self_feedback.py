"""Suite `self-feedback`: RLSF on the built-in task with several seeds, and a DPO step's speed and memory beside TRL's.

The method is `rlif self-feedback` as it comes for every seed (its questions, samples and order of pairs). Kept are
accuracy and calibration on held-out questions before and after, of the confidence that the pairs are ranked by, and of
the answer's tokens alone; and how often the more confident of a right and a wrong solution was the right one. DPO
trains the same random model on the same pairs, in float32 and with reference log-probabilities computed before, by
`rlif self-feedback train` and by TRL's DPOTrainer. TRL and datasets are imported where they are called, as for the
training step.
"""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.memory import peak_bytes
from benchmarks.runner import Options, Step, steps_in_turn
from benchmarks.steps.workload import SIZES, StepTimer, Workload, random_words, save_model, time_in
from benchmarks.timing import quartiles
from rlif.options.record import CONFIG_FILE
from rlif.self_feedback import train as stage
from rlif.self_feedback.command import run as run_self_feedback
from rlif.self_feedback.options import MeasureOptions, RankOptions, SampleOptions, SelfFeedbackConfig, TrainOptions
from rlif.tasks.built_in_models import pretrained_base
from rlif.tasks.options import BaseModelConfig
from rlif.training import items

# Questions to sample from, half as many of which are held out, and solutions of each of these.
QUESTIONS = {"full": (400, 16), "quick": (100, 4)}


def steps(options: Options) -> list[Step]:
    """DPO in turns, then the method with each seed; a tiny run leaves the method out."""
    # Pairs of completions: half as many sequences as a training step has.
    work = dataclasses.replace(SIZES[options.size], prompts=2 * SIZES[options.size].prompts, steps=5, beta=0.2)
    names = [name for name in ("rlif", "TRL") if options.allows(name.lower())]
    found = steps_in_turn(measure_dpo, names, work, partial(summarise_pairs, work.prompts), options.repeats, 30)
    if options.size in QUESTIONS:
        count = partial(add_method, *QUESTIONS[options.size])
        found += [Step(f"seed {seed}", 250, partial(count, seed)) for seed in range(options.repeats)]
    return found


def add_method(questions: int, eval_generations: int, seed: int, results: dict[str, Any]) -> str:
    results |= {"questions": questions, "eval_generations": eval_generations}
    entry = results.setdefault("seeds", {})[seed] = run_method(seed, questions, eval_generations)
    accuracy = [entry["trace"]["models"][model]["accuracy"] for model in ("start model", "tuned model")]
    return "accuracy {:.1%} -> {:.1%}".format(*accuracy)


def run_method(seed: int, questions: int, eval_generations: int) -> dict[str, Any]:
    """Self-feedback from the built-in base model: ranking, and the measures of the start model and of the tuned one."""
    pretrained_base(BaseModelConfig())
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "run"
        measure = MeasureOptions(eval_generations=eval_generations)
        config = SelfFeedbackConfig(
            output_dir=directory, seed=seed, built_in_prompts=questions, measure=measure, device="cpu"
        )
        started = time.perf_counter()
        run_self_feedback(config)
        seconds = time.perf_counter() - started
        # The same answers judged by their own tokens alone.
        answers = dataclasses.replace(
            config,
            stage="measure",
            output_dir=Path(scratch) / "answers",
            tuned_model=str(directory / "model"),
            sample=SampleOptions(answer_span="marker"),
            rank=RankOptions(confidence="probability_disparity"),
        )
        answers.output_dir.mkdir()
        shutil.copy(directory / CONFIG_FILE, answers.output_dir)  # that it was the built-in model and its additions
        run_self_feedback(answers)
        return {
            "seconds": seconds,
            "ranking": json.loads((directory / "ranking.json").read_text()),
            "trace": json.loads((directory / "measure.json").read_text()),
            "answer": json.loads((answers.output_dir / "measure.json").read_text()),
        }


def measure_dpo(trainer: str, work: Workload) -> dict[str, Any]:
    """Train in this process, which should be a fresh one: seconds of each step, the first loss, and peak memory."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        save_model(work, directory / "model")
        draw = random.Random(0)
        rows = [
            {
                "prompt": random_words(work, draw, work.prompt_length),
                "chosen": " " + random_words(work, draw, work.max_completion_length),
                "rejected": " " + random_words(work, draw, work.max_completion_length),
            }
            for _ in range(work.prompts * work.steps)
        ]
        (directory / "preferences.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        train = train_rlif_pairs if trainer == "rlif" else train_trl
        return train(work, directory) | {"peak_bytes": peak_bytes()}


def train_rlif_pairs(work: Workload, directory: Path) -> dict[str, Any]:
    """`rlif self-feedback train`."""
    seconds: list[float] = []
    reference: list[float] = []
    time_in(items, "train_batch", seconds)
    time_in(stage, "reference_logprobs", reference)
    options = TrainOptions(
        num_train_epochs=1, pairs_per_step=work.prompts, learning_rate=work.learning_rate, beta=work.beta
    )
    run_self_feedback(
        SelfFeedbackConfig(
            stage="train",
            model=str(directory / "model"),
            preferences=directory / "preferences.jsonl",
            output_dir=directory / "run",
            train=options,
            device="cpu",
        )
    )
    rows = [json.loads(line) for line in (directory / "run" / "train-dpo" / "metrics.jsonl").read_text().splitlines()]
    return {"steps": seconds, "reference_seconds": sum(reference), "first_loss": rows[0]["loss"]}


def train_trl(work: Workload, directory: Path) -> dict[str, Any]:
    """TRL's DPOTrainer, gradient checkpointing off."""
    from datasets import load_dataset
    from trl import DPOConfig, DPOTrainer

    whole = StepTimer()
    reference: list[float] = []
    time_in(DPOTrainer, "_precompute_ref_logps", reference)
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(directory / "model", dtype=torch.float32),
        args=DPOConfig(
            output_dir=str(directory / "run"),
            num_train_epochs=1,
            per_device_train_batch_size=work.prompts,
            precompute_ref_log_probs=True,
            precompute_ref_batch_size=work.prompts,
            learning_rate=work.learning_rate,
            beta=work.beta,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
        ),
        train_dataset=load_dataset("json", data_files=str(directory / "preferences.jsonl"), split="train"),
        processing_class=AutoTokenizer.from_pretrained(directory / "model"),
        callbacks=[whole],
    )
    trainer.train()
    first_loss = trainer.state.log_history[0]["loss"]
    return {"steps": whole.seconds, "reference_seconds": sum(reference), "first_loss": first_loss}


def summarise_pairs(pairs_per_step: int, turns: list[dict[str, Any]]) -> dict[str, Any]:
    """Pairs a second over the steps of all turns but each one's first: median and quartiles; and the peak memory."""
    low, median, high = quartiles([pairs_per_step / seconds for turn in turns for seconds in turn["steps"][1:]])
    return {
        "pairs_per_second": median,
        "quartiles": [low, high],
        "first_loss": turns[0]["first_loss"],
        "peak_bytes": max(turn["peak_bytes"] for turn in turns),
        "turns": turns,
    }
