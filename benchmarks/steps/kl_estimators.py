"""Suite `kl-estimators`: how far is the gradient of the penalty for leaving the start model off, by its estimator?

The policy is the built-in base model after some steps of training on self-certainty without a penalty. The gradient
that an estimate is compared with is that of the mean over the tokens of KL(policy ‖ start model), over the whole
vocabulary, from a sample of completions that no estimate sees; it is by all weights at once. It is estimated from
disjoint groups of n completions, each of a prompt of its own: the error is the root of the mean square of
‖estimate - gradient‖ / ‖gradient‖. With d = log p - log q of the token drawn, the loss of a token is d ("k1"), d² / 2
("k2"), exp(-d) + d - 1 ("k3"), or the divergence ("full").
"""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from benchmarks.runner import Options, Step
from rlif.demo.options import DemoConfig
from rlif.models.language_model import LanguageModel, load_language_model
from rlif.rollouts.encode import EncodedPrompt
from rlif.rollouts.rollout import Rollout
from rlif.rollouts.sample import sample
from rlif.scoring.scorer import Scorer
from rlif.tasks.arithmetic import ArithmeticConfig, completion_length, problems, write_jsonl
from rlif.tasks.built_in_models import pretrained_base
from rlif.tasks.options import BaseModelConfig
from rlif.training.loop import train
from rlif.training.options import TrainConfig
from rlif.training.progress import SilentProgress
from rlif_kernels import divergence, k3_kl, token_stats

ESTIMATORS = ("k1", "k2", "k3", "full")
# Steps of training; completions of the gradient, and of the estimates: a power of two.
WORK = {"full": (16, 2048, 512), "quick": (8, 512, 128), "tiny": (1, 8, 4)}
ROWS = 64  # completions of a forward


def steps(options: Options) -> list[Step]:
    return [Step("estimates", 90, partial(add_estimates, *WORK[options.size]))]


def add_estimates(max_steps: int, known: int, count: int, results: dict[str, Any]) -> str:
    """Train, sample and compare."""
    base, task = pretrained_base(BaseModelConfig()), BaseModelConfig().task
    start = load_language_model(str(base), device="cpu", dtype="float32")
    policy = trained(base, task, max_steps)
    rollout = rolled(policy, task, known + count)
    pair = (policy.model, start.model.requires_grad_(False))
    target, divergence_per_token = known_gradient(pair, rollout, range(known))
    found = errors(pair, rollout, range(known, known + count), target, tokens_per_completion(rollout, known))
    results["entries"] = [{"estimator": name, "errors": found[name]} for name in ESTIMATORS]
    results |= {
        "training_steps": max_steps,
        "known_completions": known,
        "completions": count,
        "parameters": policy.model.num_parameters(),
        "vocabulary": policy.model.config.vocab_size,
        "divergence": divergence_per_token,
    }
    return ", ".join(f"{name} {found[name][max(found[name], key=int)]:.2g}" for name in ESTIMATORS)


def trained(base: Path, task: ArithmeticConfig, max_steps: int) -> LanguageModel:
    """Train the base model on its self-certainty, as `rlif demo` does, without a penalty."""
    demo = DemoConfig()
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "train.jsonl"
        write_jsonl(data, task, "train", max_steps * demo.prompts_per_step, 0)
        config = TrainConfig(
            model=str(base),
            data=str(data),
            output_dir=Path(scratch) / "run",
            max_steps=max_steps,
            prompts_per_step=demo.prompts_per_step,
            max_completion_length=completion_length(task),
            learning_rate=demo.learning_rate,
            lr_scheduler_type="constant",
            beta=0.0,
            guard="off",
            device="cpu",
        )
        run = train(config, progress=SilentProgress()).run_dir
        return load_language_model(str(run / "model"), device="cpu", dtype="float32")


def rolled(policy: LanguageModel, task: ArithmeticConfig, count: int) -> Rollout:
    """Sample a completion of each of so many prompts."""
    texts = [problem.prompt for problem in itertools.islice(problems(task, "eval", seed=0), count)]
    return sample(
        policy,
        [EncodedPrompt(text, None, policy.tokenizer(text)["input_ids"]) for text in texts],
        num_generations=1,
        max_completion_length=completion_length(task),
        temperature=1.0,
        seeds=[(0, position) for position in range(count)],
    )


def tokens_per_completion(rollout: Rollout, known: int) -> float:
    """The mean that every gradient is divided by: a constant, so that each estimate is a sum over its completions."""
    return int(rollout.completion_mask[:known].sum()) / known


def known_gradient(
    pair: tuple[PreTrainedModel, PreTrainedModel], rollout: Rollout, rows: range
) -> tuple[Tensor, float]:
    """The gradient of the mean divergence over the tokens of many completions, flat, and that mean in nats."""
    total, sums = 0.0, None
    for first in range(rows.start, rows.stop, ROWS):
        part = range(first, min(first + ROWS, rows.stop))
        gradient, value = next(gradients(pair, rollout.select(part), ("full",)))
        sums, total = gradient if sums is None else sums + gradient, total + value
    assert sums is not None
    num_tokens = int(rollout.completion_mask[: len(rows)].sum())
    return sums / num_tokens, total / num_tokens


def errors(
    pair: tuple[PreTrainedModel, PreTrainedModel], rollout: Rollout, rows: range, target: Tensor, tokens: float
) -> dict[str, dict[str, float]]:
    """The error of each estimator, by the number of completions: 1, 2, 4, ..., half of all."""
    sizes = [2**power for power in range(int(math.log2(len(rows))))]
    sums = {(name, size): torch.zeros_like(target) for name in ESTIMATORS for size in sizes}
    squares = {key: 0.0 for key in sums}
    for number, row in enumerate(rows, start=1):
        each = zip(ESTIMATORS, gradients(pair, rollout.select([row]), ESTIMATORS), strict=True)
        for name, (gradient, _) in each:
            for size in sizes:
                group = sums[name, size].add_(gradient, alpha=1 / (size * tokens))
                if number % size == 0:
                    squares[name, size] += (group - target).square().sum().item()
                    group.zero_()
    scale = target.square().sum().item()
    return {
        name: {str(size): math.sqrt(squares[name, size] * size / len(rows) / scale) for size in sizes}
        for name in ESTIMATORS
    }


def gradients(
    pair: tuple[PreTrainedModel, PreTrainedModel], rollout: Rollout, names: tuple[str, ...]
) -> Iterator[tuple[Tensor, float]]:
    """The gradient of the sum of a penalty over the tokens, flat, and that sum; of each estimator named."""
    policy, start = pair
    ids, mask = rollout.completion_ids, rollout.completion_mask
    logits = Scorer(policy, None).scores(rollout)
    with torch.no_grad():
        ref_logits = Scorer(start, None).scores(rollout)
        ref = token_stats(ref_logits, ids, mask=mask, outputs=("logprob",)).logprob
    logprob = token_stats(logits, ids, mask=mask, outputs=("logprob",)).logprob
    assert logprob is not None
    assert ref is not None
    weight = mask.float()
    losses = {
        "k1": lambda: (logprob - ref).sum(),
        "k2": lambda: (logprob - ref).square().sum() / 2,
        "k3": lambda: k3_kl(logprob, ref).sum(),
        "full": lambda: divergence(logits, ref_logits, kind="reverse_kl", token_weight=weight, mask=mask).loss,
    }
    parameters = list(policy.parameters())
    for number, name in enumerate(names, start=1):
        loss = losses[name]()
        parts = torch.autograd.grad(loss, parameters, retain_graph=number < len(names))
        yield torch.cat([part.flatten() for part in parts]), loss.item()
