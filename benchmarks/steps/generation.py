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
import time
from functools import partial
from typing import Any

import torch

from benchmarks.runner import Options, Step
from benchmarks.steps.training_step import word_tokenizer
from rlif.models.fused_head import fused_head
from rlif.models.language_model import LanguageModel, load_language_model
from rlif.rollouts.encode import EncodedPrompt
from rlif.rollouts.rollout import Rollout
from rlif.rollouts.sample import sample
from rlif.scoring.scorer import Scorer

# Every score of `rlif eval` can be had of these.
OUTPUTS = ("logprob", "entropy", "self_certainty", "top_probs")


@dataclasses.dataclass(frozen=True)
class Shape:
    """A model and what is sampled from it; no sizes: the built-in base model."""

    vocab_size: int = 0
    hidden_size: int = 0
    intermediate_size: int = 0
    num_layers: int = 0
    num_heads: int = 0
    num_key_value_heads: int = 0
    prompts: int = 8
    num_generations: int = 8
    prompt_length: int = 16
    max_completion_length: int = 32


SHAPES = {
    "built-in base model": Shape(prompts=32, prompt_length=8, max_completion_length=96),
    "4 layers, H = 256, V = 32000": Shape(32000, 256, 512, 4, 4, 2),
    "4 layers, H = 256, V = 151936": Shape(151936, 256, 512, 4, 4, 2),
    # Qwen2.5-0.5B has these sizes.
    "24 layers, H = 896, V = 151936": Shape(151936, 896, 4864, 24, 14, 2, prompts=4, max_completion_length=8),
}
TINY_SHAPES = {"1 layer, H = 32, V = 1000": Shape(1000, 32, 32, 1, 2, 1, 2, 2, 4, 4)}
QUICK_SHAPES = {
    "built-in base model": Shape(prompts=8, prompt_length=8, max_completion_length=48),
    "4 layers, H = 256, V = 32000": dataclasses.replace(SHAPES["4 layers, H = 256, V = 32000"], prompts=2),
}
REPEATS = {"full": 5, "quick": 3, "tiny": 3}


def steps(options: Options) -> list[Step]:
    """One model each. Sampling is a CPU's affair here: on a GPU its models are too small to say anything."""
    shapes = {"full": SHAPES, "quick": QUICK_SHAPES, "tiny": TINY_SHAPES}[options.size]
    repeats = REPEATS[options.size]
    return [Step(name, 8 * repeats, partial(add, name, shape, repeats)) for name, shape in shapes.items()]


def add(name: str, shape: Shape, repeats: int, results: dict[str, Any]) -> str:
    entry = results.setdefault("models", {})[name] = measure(shape, repeats)
    return (
        f"{statistics.median(entry['seconds']['plain']):.2f} s, statistics {entry['statistics_share']:+.1%}, "
        f"a second forward {entry['second_forward_share']:+.1%}"
    )


def make_language_model(shape: Shape) -> LanguageModel:
    """The model, in float32; of a random one nothing ends a completion."""
    if not shape.vocab_size:
        from rlif.tasks.built_in_models import pretrained_base
        from rlif.tasks.options import BaseModelConfig

        return load_language_model(str(pretrained_base(BaseModelConfig())), device="cpu", dtype="float32")
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_key_value_heads,
        head_dim=shape.hidden_size // shape.num_heads,
        tie_word_embeddings=True,
    )
    return LanguageModel(Qwen3ForCausalLM(config).eval(), word_tokenizer(shape.vocab_size), (), 0)


def make_prompts(shape: Shape, language_model: LanguageModel) -> list[EncodedPrompt]:
    """Problems for the base model, random tokens for a random one."""
    if not shape.vocab_size:
        from rlif.tasks.arithmetic import ArithmeticConfig, problems

        first = itertools.islice(problems(ArithmeticConfig(), "eval", seed=0), shape.prompts)
        texts = [problem.prompt for problem in first]
        return [EncodedPrompt(text, None, language_model.tokenizer(text)["input_ids"]) for text in texts]
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, shape.vocab_size, (shape.prompts, shape.prompt_length), generator=generator)
    return [EncodedPrompt("", None, row) for row in ids.tolist()]


def measure(shape: Shape, repeats: int) -> dict[str, Any]:
    """Seconds of every repeat, and shares of the plain sampling's."""
    language_model = make_language_model(shape)
    prompts = make_prompts(shape, language_model)
    scorer = Scorer(language_model.model, fused_head(language_model.model))

    def roll(outputs: tuple[str, ...]) -> Rollout:
        return sample(
            language_model,
            prompts,
            num_generations=shape.num_generations,
            max_completion_length=shape.max_completion_length,
            temperature=1.0,
            seeds=[(0, position) for position in range(len(prompts))],
            outputs=outputs,
        )

    seconds: dict[str, list[float]] = {"plain": [], "statistics": [], "second forward": []}
    rollout = roll(OUTPUTS)  # warms up
    for _ in range(repeats):
        for name, values in seconds.items():
            started = time.perf_counter()
            if name == "second forward":
                with torch.no_grad():
                    scorer(rollout, 1.0, OUTPUTS)
            else:
                rollout = roll(OUTPUTS if name == "statistics" else ())
            values.append(time.perf_counter() - started)
    plain = seconds["plain"]
    return {
        "shape": dataclasses.asdict(shape),
        "parameters": language_model.model.num_parameters(),
        "tokens": int(rollout.completion_mask.sum()),
        "seconds": seconds,
        "statistics_share": statistics.median(s / p - 1 for s, p in zip(seconds["statistics"], plain, strict=True)),
        "second_forward_share": statistics.median(s / p for s, p in zip(seconds["second forward"], plain, strict=True)),
    }
