"""Sample completions of held-out prompts and measure them, always with the same random numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlif.answers import extract_answer
from rlif.config import TrainConfig
from rlif.grpo import kl_to_reference
from rlif.models import LanguageModel
from rlif.rewards.answers import verifiable
from rlif.rollout import EncodedPrompt, Rollout, sample
from rlif.scoring import completion_stats
from rlif_kernels import TokenStats

# One seed for all runs and all steps: evaluations differ by the policy alone.
EVAL_SEED = 20250526


@dataclass(frozen=True)
class Evaluation:
    """Metrics without the prefix `eval/`, and one completion of each prompt."""

    metrics: dict[str, float]
    samples: list[dict[str, object]]


@torch.no_grad()
def evaluate(
    policy: LanguageModel, reference: PreTrainedModel, prompts: Sequence[EncodedPrompt], config: TrainConfig
) -> Evaluation:
    """Sample `config.eval_generations` completions of every prompt at `config.eval_temperature` and measure them.

    Args:
        policy: the model to evaluate.
        reference: the frozen start model.
        prompts: at least one.
        config: lengths, temperature, and the size of a batch: no more completions at a time than in training.

    Returns:
        accuracy: share of completions whose answer equals the gold one, over the prompts that have one (absent if none
        has); parse_rate: share that state an answer; eos_rate: share that ended by themselves; completion_length in
        tokens; and per token, in nats: entropy, self_certainty, kl to the reference, and base_nll, the reference's
        negative log-likelihood of what the policy says. At temperature 0 the statistics are those at temperature 1.
    """
    generator = torch.Generator(policy.device).manual_seed(EVAL_SEED)
    temperature = config.eval_temperature or 1.0
    batch_size = max(1, config.prompts_per_step * config.num_generations // config.eval_generations)
    groups_per_forward = max(1, config.groups_per_forward * config.num_generations // config.eval_generations)
    totals, samples = [], []
    for start in range(0, len(prompts), batch_size):
        rollout = sample(
            policy,
            prompts[start : start + batch_size],
            num_generations=config.eval_generations,
            max_completion_length=config.max_completion_length,
            temperature=config.eval_temperature,
            generator=generator,
        )
        samples += sample_rows(rollout)
        for part in rollout.split(groups_per_forward):
            stats = completion_stats(policy.model, part, temperature=temperature)
            base = completion_stats(reference, part, temperature=temperature, outputs=("logprob",))
            totals.append(rollout_totals(part, stats, base.logprob))
    return Evaluation(mean_metrics(totals), samples)


def rollout_totals(rollout: Rollout, stats: TokenStats, base_logprob: Tensor | None) -> dict[str, float]:
    """Sums over the completions and over the tokens of a rollout, which add up over rollouts; see `mean_metrics`."""
    assert stats.logprob is not None
    assert stats.entropy is not None
    assert stats.self_certainty is not None
    totals: dict[str, float] = {
        "completions": len(rollout.texts),
        "tokens": int(rollout.completion_mask.sum()),
        "eos": int(rollout.finished.sum()),
        "parsed": sum(extract_answer(text) is not None for text in rollout.texts),
        "with_answer": sum(answer is not None for answer in rollout.answers),
        "correct": sum(verifiable(rollout.texts, rollout.answers)),
        "entropy": stats.entropy.sum().item(),
        "self_certainty": stats.self_certainty.sum().item(),
    }
    if base_logprob is not None:
        totals["base_nll"] = -base_logprob.sum().item()
        totals["kl"] = kl_to_reference(stats.logprob.detach(), base_logprob).sum().item()
    return totals


def mean_metrics(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Metrics per completion and per token, from the `rollout_totals` of one or more parts."""
    totals = {name: sum(part[name] for part in parts) for name in parts[0]}
    completions, tokens = totals["completions"], totals["tokens"]
    metrics = {
        "completion_length": tokens / completions,
        "eos_rate": totals["eos"] / completions,
        "parse_rate": totals["parsed"] / completions,
    }
    if totals["with_answer"]:
        metrics["accuracy"] = totals["correct"] / totals["with_answer"]
    for name in ("entropy", "self_certainty", "base_nll", "kl"):
        if name in totals:
            metrics[name] = totals[name] / tokens
    return metrics


def sample_rows(rollout: Rollout) -> list[dict[str, object]]:
    """The first completion of each prompt, as rows for samples.jsonl."""
    return [
        {
            "prompt": rollout.prompts[row],
            "completion": rollout.texts[row],
            "finished": bool(rollout.finished[row]),
            "answer": rollout.answers[row],
        }
        for row in range(0, len(rollout.texts), rollout.num_generations)
    ]
