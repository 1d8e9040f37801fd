"""Measure the policy while it is trained: sample completions of held-out prompts, always with the same random numbers.

`rlif eval`, which measures much more of one model, is `rlif/evaluation/`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from rlif.answers.agreement import majorities
from rlif.answers.math_verification import limited_cost
from rlif.doing import doing
from rlif.files.jsonl import Row
from rlif.metrics.repetition import repetition
from rlif.models.language_model import LanguageModel
from rlif.progress_bar import Move
from rlif.rewards.controls import verifiable
from rlif.rollouts.batch_size import prompts_at_a_time
from rlif.rollouts.encode import EncodedPrompt
from rlif.rollouts.rollout import Rollout
from rlif.rollouts.sample import sample
from rlif.scoring.scorer import parts_of
from rlif.scoring.token_confidence import token_confidence
from rlif.training.distributed import unsharded
from rlif.training.learner import Models
from rlif.training.samples import NUM_SAMPLES, sample_row
from rlif_kernels import TokenStats, k3_kl

# One seed for all runs and all steps: evaluations differ by the policy alone.
EVAL_SEED = 20250526
# The seed of the start model's samples, of which its majority answers are taken.
CONSENSUS_SEED = 20220321


@dataclass(frozen=True)
class ValidationOptions:
    """How completions of held-out prompts are sampled and measured."""

    num_generations: int
    """Completions of each prompt."""
    max_completion_length: int
    """In tokens."""
    temperature: float
    """Of sampling; 0 is greedy, and then the statistics are those at temperature 1."""
    completions_per_batch: int
    """Completions sampled at a time at most, though at least those of one prompt."""
    max_tokens_per_forward: int = 8192
    """Tokens of one forward that measures, padding included."""


@dataclass(frozen=True)
class Validation:
    """Metrics without the prefix `eval/`, and one completion of each prompt; the first of these have their `tokens`."""

    metrics: dict[str, float]
    samples: list[Row]


@torch.no_grad()
@limited_cost()
def evaluate(
    models: Models,
    accelerator: Accelerator,
    options: ValidationOptions,
    prompts: Sequence[EncodedPrompt],
    consensus: Sequence[str | None] | None = None,
    *,
    by_gold: bool = False,
    done: Sequence[Row] = (),
    keep: Callable[[list[Row]], None] = lambda rows: None,
) -> Validation:
    """Sample completions of every prompt and measure them.

    Every process evaluates all prompts, and so finds the same as one process alone.

    Args:
        models: the policy, and the start model to compare it with.
        accelerator: that prepared them.
        options: how many completions are sampled, at what temperature, and how many at a time.
        prompts: at least one.
        consensus: `majority_answers` of the start model to the first of these prompts, to be compared with.
        by_gold: whether the guard is to go by the gold answers, if enough prompts have one.
        done: what `keep` was given by an evaluation that was interrupted, with which this one goes on.
        keep: gets what each batch of prompts has come to, as JSON can hold it.

    Returns:
        accuracy: share of completions whose answer equals the gold one, over the prompts that have one (absent if none
        has); parse_rate: share that state an answer; eos_rate: share that ended by themselves; completion_length in
        tokens; repetition (`rlif.metrics`); agreement: share of a prompt's completions that state its commonest
        answer; consensus: share whose answer is the start model's majority answer, over num_compared completions of
        the prompts that have one, which are a share consensus_prompts of those it was asked about; where by_gold is
        true, gold_prompts, the share of prompts with a gold answer, and num_gold, the number of their completions; and
        per token, in nats: entropy, self_certainty, kl to the start model, and base_nll, the start model's negative
        log-likelihood of what the policy says, with base_nll_error, the standard error of base_nll + kl.
    """
    assert models.start_model is not None
    temperature = options.temperature or 1.0
    parts = list(done)
    start = sum(len(part["samples"]) for part in parts)
    batch_size = _prompts_at_a_time(models.language_model, prompts, options, options.num_generations)
    with doing("evaluating", "prompts", len(prompts), start) as work:
        while start < len(prompts):
            batch = prompts[start : start + batch_size]
            with unsharded(accelerator, models.scorer):
                rollout = sample(
                    models.language_model,
                    batch,
                    num_generations=options.num_generations,
                    max_completion_length=options.max_completion_length,
                    temperature=options.temperature,
                    seeds=[(EVAL_SEED, start + offset) for offset in range(len(batch))],
                )
            answers = consensus[start : start + len(batch)] if consensus else []
            shown = max(0, NUM_SAMPLES - start)
            part = _measured(models, rollout, temperature, answers, options.max_tokens_per_forward, shown)
            keep([part])
            parts.append(part)
            start += len(batch)
            work.move(len(batch))
    totals: Counter[str] = Counter()
    for part in parts:
        totals.update(part["totals"])
    drift = torch.tensor([pair for part in parts for pair in part["drift"]], dtype=torch.float64)
    samples = [row for part in parts for row in part["samples"]]
    metrics = mean_metrics(totals) | {
        "repetition": totals["repetition"] / totals["completions"],
        "agreement": totals["agreeing"] / totals["completions"],
        "base_nll_error": ratio_error(drift),
    }
    if by_gold:
        metrics["num_gold"] = totals["with_answer"]
        metrics["gold_prompts"] = totals["with_answer"] / totals["completions"]
    if consensus:
        metrics["consensus_prompts"] = sum(answer is not None for answer in consensus) / len(consensus)
        metrics["num_compared"] = totals["compared"]
        if totals["compared"]:
            metrics["consensus"] = totals["consensus"] / totals["compared"]
    return Validation(metrics, samples)


def _measured(
    models: Models, rollout: Rollout, temperature: float, consensus: Sequence[str | None], max_tokens: int, shown: int
) -> Row:
    """What one batch of an evaluation comes to: sums, one completion of each prompt, and each completion's drift.

    Of the completions of the first `shown` prompts it has the tokens too.
    """
    assert models.start_model is not None
    totals: Counter[str] = Counter(text_totals(rollout, consensus))
    drift, tokens = [], {}
    tokenizer, firsts = models.language_model.tokenizer, range(0, len(rollout.texts), rollout.num_generations)
    for rows in parts_of(models.scorer, rollout, max_tokens):
        part = rollout.select(rows)
        stats = models.scorer(part, temperature)
        start_logprob = models.start_model.logprob(part, temperature)
        totals.update(rollout_totals(part, stats, start_logprob))
        drift += completion_drift(part, stats, start_logprob).tolist()
        for place, row in enumerate(rows):
            if row in firsts[:shown]:
                tokens[row] = token_confidence(rollout, row, tokenizer, stats, stats_row=place).to_json()
    samples = [sample_row(rollout, row, "eval", tokens=tokens.get(row)) for row in firsts]
    return {"totals": dict(totals), "samples": samples, "drift": drift}


def _prompts_at_a_time(
    language_model: LanguageModel, prompts: Sequence[EncodedPrompt], options: ValidationOptions, num_generations: int
) -> int:
    """As many prompts as the options allow, and as come to results soon."""
    return prompts_at_a_time(
        language_model,
        prompts,
        num_generations=num_generations,
        max_completion_length=options.max_completion_length,
        at_most=options.completions_per_batch // num_generations,
    )


@torch.no_grad()
@limited_cost()
def majority_answers(
    language_model: LanguageModel,
    prompts: Sequence[EncodedPrompt],
    options: ValidationOptions,
    num_generations: int,
    *,
    done: Sequence[Row] = (),
    keep: Callable[[list[Row]], None] = lambda rows: None,
    move: Move = lambda count=0, **_: None,
) -> list[str | None]:
    """Take the model's most common answer to each prompt; None where no two samples agree.

    Args:
        language_model: the start model.
        prompts: to ask.
        options: how to sample; at temperature 1 where they say 0, since greedy samples always agree.
        num_generations: samples of each prompt, in the place of those of the options.
        done: what `keep` was given before an interruption, of the first prompts.
        keep: gets a row for each prompt of a batch: its text, the answer, and how many samples give it.
        move: told how many prompts are done.
    """
    found = list(done)
    batch_size = _prompts_at_a_time(language_model, prompts, options, num_generations)
    for start in range(len(found), len(prompts), batch_size):
        batch = prompts[start : start + batch_size]
        rollout = sample(
            language_model,
            batch,
            num_generations=num_generations,
            max_completion_length=options.max_completion_length,
            temperature=options.temperature or 1.0,
            seeds=[(CONSENSUS_SEED, start + offset) for offset in range(len(batch))],
        )
        rows: list[Row] = []
        for prompt, majority in zip(batch, majorities(rollout.stated, num_generations), strict=True):
            first = rollout.stated[majority[0]] if len(majority) > 1 else None
            answer = None if first is None else first.text
            rows.append({"prompt": prompt.text, "answer": answer, "agreeing": len(majority)})
        keep(rows)
        found += rows
        move(len(batch))
    return [row["answer"] for row in found]


def text_totals(rollout: Rollout, consensus: Sequence[str | None]) -> dict[str, float]:
    """Sum up over the completions of a rollout, of whole groups, what needs no model; see `evaluate`.

    `consensus` has the start model's answers to the first prompts of the rollout.
    """
    lengths = rollout.lengths()[1]
    ids = rollout.completion_ids.tolist()
    totals: dict[str, float] = {
        "repetition": sum(repetition(row[:length]) for row, length in zip(ids, lengths, strict=True)),
        "agreeing": sum(map(len, majorities(rollout.stated, rollout.num_generations))),
    }
    expected = [answer for answer in consensus for _ in range(rollout.num_generations)]
    totals["compared"] = sum(answer is not None for answer in expected)
    totals["consensus"] = sum(verifiable(rollout.stated[: len(expected)], expected))
    return totals


def completion_drift(rollout: Rollout, stats: TokenStats, start_logprob: Tensor) -> Tensor:
    """Sum the start model's NLL and the KL to it over each completion: (N, 2) float64, that in nats, and its tokens."""
    assert stats.logprob is not None
    nats = (k3_kl(stats.logprob, start_logprob) - start_logprob).double().sum(dim=1)
    return torch.stack([nats, rollout.completion_mask.sum(dim=1).double()], dim=1)


def ratio_error(pairs: Tensor) -> float:
    """Return the standard error of (sum of the first column) / (sum of the second), of N independent rows (N, 2)."""
    value, size = pairs.unbind(dim=1)
    residual = value - value.sum() / size.sum() * size
    return (residual.square().sum().sqrt() / size.sum()).item()


def rollout_totals(
    rollout: Rollout, stats: TokenStats, start_logprob: Tensor | None, full_kl: Tensor | None = None
) -> dict[str, float]:
    """Sum up over the completions and the tokens of a rollout; the sums add up over rollouts, see `mean_metrics`.

    Args:
        rollout: N completions of at most T tokens.
        stats: of their tokens.
        start_logprob: (N, T), of the start model, for estimates of how far the policy is from it; None: unknown.
        full_kl: (N, T), KL(policy ‖ start model), nats, where it is known itself.
    """
    assert stats.logprob is not None
    assert stats.entropy is not None
    assert stats.self_certainty is not None
    totals: dict[str, float] = {
        "completions": len(rollout.texts),
        "tokens": int(rollout.completion_mask.sum()),
        "empty": int((~rollout.completion_mask.any(dim=1)).sum()),
        "eos": int(rollout.finished.sum()),
        "parsed": sum(each is not None for each in rollout.stated),
        "with_answer": sum(answer is not None for answer in rollout.answers),
        "correct": sum(verifiable(rollout.stated, rollout.answers)),
        "entropy": stats.entropy.sum().item(),
        "self_certainty": stats.self_certainty.sum().item(),
    }
    if start_logprob is not None:
        totals["base_nll"] = -start_logprob.sum().item()
        totals["kl"] = k3_kl(stats.logprob.detach(), start_logprob).sum().item()
    if full_kl is not None:
        # The mean of the start model's NLL over what the policy might have said: H(p, q) = H(p) + KL(p || q).
        totals["base_nll"] = (stats.entropy + full_kl).sum().item()
        totals["kl"] = full_kl.sum().item()
    return totals


def mean_metrics(totals: Mapping[str, float]) -> dict[str, float]:
    """Divide `rollout_totals` that were added up into metrics per completion and per token."""
    completions, tokens = totals["completions"], totals["tokens"]
    metrics = {
        "completion_length": tokens / completions,
        "eos_rate": totals["eos"] / completions,
        "parse_rate": totals["parsed"] / completions,
    }
    if totals["empty"]:  # their confidence is 0
        metrics["empty_completions"] = totals["empty"] / completions
    if totals["with_answer"]:
        metrics["accuracy"] = totals["correct"] / totals["with_answer"]
    for name in ("entropy", "self_certainty", "base_nll", "kl"):
        if name in totals:
            metrics[name] = totals[name] / tokens
    return metrics
