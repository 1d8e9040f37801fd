"""Sample completions of held-out prompts and measure them, always with the same random numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlif.answers import extract_answer
from rlif.distributed import gathered
from rlif.grpo import kl_to_reference
from rlif.learner import Learner
from rlif.microbatches import microbatches
from rlif.rewards.answers import verifiable
from rlif.rollout import EncodedPrompt, Rollout, sample
from rlif_kernels import TokenStats

# One seed for all runs and all steps: evaluations differ by the policy alone.
EVAL_SEED = 20250526


@dataclass(frozen=True)
class Evaluation:
    """Metrics without the prefix `eval/`, and one completion of each prompt."""

    metrics: dict[str, float]
    samples: list[dict[str, object]]


@torch.no_grad()
def evaluate(learner: Learner, prompts: Sequence[EncodedPrompt]) -> Evaluation:
    """Sample `eval_generations` completions of every prompt at `eval_temperature` and measure them.

    Every process evaluates all prompts, and so finds the same as one process alone.

    Args:
        learner: with a reference. Its configuration says how many completions are sampled, at what temperature, and how
            many at a time: no more than in training.
        prompts: at least one.

    Returns:
        accuracy: share of completions whose answer equals the gold one, over the prompts that have one (absent if none
        has); parse_rate: share that state an answer; eos_rate: share that ended by themselves; completion_length in
        tokens; and per token, in nats: entropy, self_certainty, kl to the reference, and base_nll, the reference's
        negative log-likelihood of what the policy says. At temperature 0 the statistics are those at temperature 1.
    """
    config, reference = learner.config, learner.reference
    assert reference is not None
    temperature = config.eval_temperature or 1.0
    batch_size = max(1, config.prompts_per_step * config.num_generations // config.eval_generations)
    totals: Counter[str] = Counter()
    samples = []
    for start in range(0, len(prompts), batch_size):
        batch = prompts[start : start + batch_size]
        with gathered(learner.accelerator, learner.scorer):
            rollout = sample(
                learner.policy,
                batch,
                num_generations=config.eval_generations,
                max_completion_length=config.max_completion_length,
                temperature=config.eval_temperature,
                seeds=[(EVAL_SEED, start + offset) for offset in range(len(batch))],
            )
        samples += sample_rows(rollout)
        for rows in microbatches(rollout, list(range(len(rollout.texts))), config.max_tokens_per_forward):
            part = rollout.select(rows)
            totals.update(rollout_totals(part, learner.scorer(part, temperature), reference.logprob(part, temperature)))
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


def mean_metrics(totals: Mapping[str, float]) -> dict[str, float]:
    """Metrics per completion and per token, from `rollout_totals` that were added up."""
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
