"""Suite `generation`: what it costs to keep the statistics of the distributions that completions are drawn from.

The same completions are sampled without statistics, with those that every confidence score of `rlif eval` needs, and
then scored in a forward of their own instead, in turn. The share is the median over the repeats of each one's time over
that of the plain sampling before it, so that a machine that slows down slows all. Random models of Qwen3's form, of
which no completion ends early, and the built-in base model.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from benchmarks.runner import Options, Step
from benchmarks.steps.workload import SIZES, Workload, random_model
from benchmarks.timing import in_turn
from rlif.models.fused_head import fused_head
from rlif.models.language_model import LanguageModel, load_language_model
from rlif.rollouts.encode import EncodedPrompt
from rlif.rollouts.rollout import Rollout
from rlif.rollouts.sample import sample
from rlif.scoring.confidence import OUTPUTS
from rlif.scoring.scorer import Scorer
from rlif.tasks.arithmetic import ArithmeticConfig, problems
from rlif.tasks.built_in_models import pretrained_base
from rlif.tasks.options import BaseModelConfig

# No vocabulary stands for the built-in base model.
BASE = Workload(vocab_size=0, prompts=32, prompt_length=8, max_completion_length=96)
NARROW = Workload(max_completion_length=32)
WORKLOADS = {
    "full": {
        "built-in base model": BASE,
        "4 layers, H = 256, V = 32000": NARROW,
        "4 layers, H = 256, V = 151936": replace(NARROW, vocab_size=151936),
        # Qwen2.5-0.5B has these sizes.
        "24 layers, H = 896, V = 151936": Workload(
            151936, 896, 4864, num_layers=24, num_heads=14, prompts=4, max_completion_length=8
        ),
    },
    "quick": {
        "built-in base model": replace(BASE, prompts=8, max_completion_length=48),
        "4 layers, H = 256, V = 32000": replace(NARROW, prompts=2),
    },
    "tiny": {"1 layer, H = 16, V = 50": SIZES["tiny"]},
}


def steps(options: Options) -> list[Step]:
    """Return a step for each model. They are for a CPU: on a GPU such small models say nothing."""
    repeats = 5 if options.size == "full" else 3
    return [Step(name, 40, partial(add_model, name, work, repeats)) for name, work in WORKLOADS[options.size].items()]


def add_model(name: str, work: Workload, repeats: int, results: dict[str, Any]) -> str:
    entry = results.setdefault("models", {})[name] = measure_model(work, repeats)
    return (
        f"{statistics.median(entry['seconds']['plain']):.2f} s, statistics {entry['statistics_share']:+.1%}, "
        f"a second forward {entry['second_forward_share']:+.1%}"
    )


def model_and_prompts(work: Workload) -> tuple[LanguageModel, list[EncodedPrompt]]:
    """Load the base model and problems of its task, or make a random model, which never ends early, and tokens."""
    if not work.vocab_size:
        language_model = load_language_model(str(pretrained_base(BaseModelConfig())), device="cpu", dtype="float32")
        first = itertools.islice(problems(ArithmeticConfig(), "eval", seed=0), work.prompts)
        texts = [problem.prompt for problem in first]
        return language_model, [
            EncodedPrompt(text, None, language_model.tokenizer(text)["input_ids"]) for text in texts
        ]
    model, tokenizer = random_model(work)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, work.vocab_size, (work.prompts, work.prompt_length), generator=generator)
    return LanguageModel(model.eval(), tokenizer, (), 0), [EncodedPrompt("", None, row) for row in ids.tolist()]


def measure_model(work: Workload, repeats: int) -> dict[str, Any]:
    """Seconds of every repeat, and shares of the plain sampling's."""
    language_model, prompts = model_and_prompts(work)
    scorer = Scorer(language_model.model, fused_head(language_model.model))

    def roll(outputs: tuple[str, ...]) -> Rollout:
        return sample(
            language_model,
            prompts,
            num_generations=work.num_generations,
            max_completion_length=work.max_completion_length,
            temperature=1.0,
            seeds=[(0, position) for position in range(len(prompts))],
            outputs=outputs,
        )

    rollout = roll(OUTPUTS)  # warms up
    calls: dict[str, Callable[[], object]] = {
        "plain": lambda: roll(()),
        "statistics": lambda: roll(OUTPUTS),
        "second forward": torch.no_grad()(lambda: scorer(rollout, 1.0, OUTPUTS)),
    }
    times: dict[str, list[float]] = {}
    in_turn(calls, 0, "cpu", times, rounds=(repeats, repeats))
    seconds = {name: [milliseconds / 1e3 for milliseconds in values] for name, values in times.items()}
    plain = seconds["plain"]
    return {
        "shape": dataclasses.asdict(work),
        "parameters": language_model.model.num_parameters(),
        "tokens": int(rollout.completion_mask.sum()),
        "seconds": seconds,
        "statistics_share": statistics.median(s / p - 1 for s, p in zip(seconds["statistics"], plain, strict=True)),
        "second_forward_share": statistics.median(s / p for s, p in zip(seconds["second forward"], plain, strict=True)),
    }
