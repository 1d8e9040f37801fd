"""Suite `real-step`: the whole training step of the model in `--model DIRECTORY`, beside TRL's GRPOTrainer.

Prompts of 160 tokens of word problems, groups of 8 completions of at most 64 tokens: ours, ours where each completion
brings its own prompt (`--no-share-prompts`), and TRL's with Intuitor's reward. All learn from 8 completions
at a time, TRL's default, and add up gradients: all at once would keep several times the memory.
"""

from __future__ import annotations

import dataclasses
import itertools
from functools import partial
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from benchmarks.runner import Options, Step, steps_in_turn
from benchmarks.steps.training_step import RLIF, SEPARATE, STOCK, measure_trainer, summarise_steps
from benchmarks.steps.workload import Workload
from rlif.tasks.word_problems.problems import WordProblemConfig, word_problems

PACKAGES = {RLIF: "rlif", SEPARATE: "rlif", STOCK: "trl"}
SHAPES = {
    "full": Workload(prompts=4, prompt_length=160, steps=3, rows=8),
    "quick": Workload(prompts=2, prompt_length=160, steps=2, num_generations=4, max_completion_length=16, rows=8),
    "tiny": Workload(prompts=1, prompt_length=8, steps=2, num_generations=2, max_completion_length=3, rows=2),
}


def steps(options: Options) -> list[Step]:
    """One for each trainer, in turns."""
    assert options.model is not None  # as the command line sees to
    work = dataclasses.replace(SHAPES[options.size], device=options.device)
    names = [name for name, package in PACKAGES.items() if options.allows(package)]
    measure, summary = (partial(each, model=options.model) for each in (measure_given, summarise))
    return steps_in_turn(measure, names, work, summary, options.repeats, 150)


def measure_given(trainer: str, work: Workload, model: Path) -> dict[str, Any]:
    """Train the model in this process, which should be a fresh one."""
    return measure_trainer(trainer, work, model, texts(work, AutoTokenizer.from_pretrained(model)))


def summarise(turns: list[dict[str, Any]], model: Path) -> dict[str, Any]:
    """Medians over the steps, and which model took them."""
    return summarise_steps(turns) | {"model": model.name}


def texts(work: Workload, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Fresh prompts for every step, of exactly `prompt_length` tokens: word problems one after the other, cut there."""
    config = WordProblemConfig(level=1, n=100_000)
    stories = (problem.prompt for problem in word_problems(config))
    found: list[str] = []
    while len(found) < work.prompts * work.steps:
        joined = " ".join(itertools.islice(stories, work.prompt_length // 8))
        if not joined:
            raise RuntimeError(f"no text of the tokenizer of {tokenizer.name_or_path} keeps its number of tokens")
        ids = tokenizer(joined, add_special_tokens=False)["input_ids"][: work.prompt_length]
        text = tokenizer.decode(ids)
        if len(tokenizer(text)["input_ids"]) == work.prompt_length:
            found.append(text)
    return found
