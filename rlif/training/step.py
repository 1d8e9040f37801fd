"""Learn from one rollout: token statistics -> rewards -> group advantages -> loss -> backward -> AdamW step.

`update` takes one of two ways through a rollout:

- `score_and_learn`: the policy that sampled is still the one that learns, so that one forward both scores the
  completions and carries the gradient. It takes whole groups, since an advantage needs all rewards of its group.
- `learn`: the advantages are known before the forward, which then computes the loss with its gradient at once. They
  are known where rewards need no statistics; in updates after the first from a rollout; and where a forward without
  gradient has scored the completions first, because a group is too large for one forward with gradient, or because
  rewards are scaled by the whole batch.
"""

from __future__ import annotations

import dataclasses
import math
from contextlib import AbstractContextManager, nullcontext
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from rlif.answers.math_verification import limited_cost
from rlif.models.freed_memory import give_back_freed_memory
from rlif.models.optimization import MovedWeights, set_learning_rate, step_if_finite
from rlif.rollouts.microbatches import groups_fit
from rlif.rollouts.rollout import Rollout
from rlif.scoring.scorer import LossInputs, parts_of, score_parts, shared_prompts
from rlif.training.distributed import all_reduce_max, all_reduce_sum, equal_turns
from rlif.training.learner import Learner
from rlif.training.loss_options import loss_options
from rlif.training.options import TrainConfig
from rlif.training.penalty import StartAnswer, ask_start_model, loss_of_statistics, penalty_weights, statistics
from rlif.training.scores import Scores, keep_scores, kind_metrics, kind_totals, reward, start_scores
from rlif.training.token_choice import chooses_tokens, sampler_weight, statistics_first
from rlif.training.verification import verification_metrics
from rlif_kernels import GRPOLoss, TokenStats
from rlif_kernels.stats import DEFAULT_OUTPUTS


def update(
    learner: Learner, rollout: Rollout, step: int, learning_rate: float, scores: Scores | None = None
) -> dict[str, float]:
    """Make `num_iterations` updates from the rollout of a step, which is counted from 1.

    The gradient is that of the whole step on all processes, however it is divided into parts. An update whose loss or
    gradient is not finite is left out.

    Args:
        learner: that learns.
        rollout: of this process.
        step: number of the step.
        learning_rate: of the step.
        scores: by `start_scores`, for a caller who wants to see what is found out about the rollout.

    Returns:
        The step's metrics, per completion or per token (nats), over all processes.
    """
    with limited_cost() as cost:
        totals = _updates(learner, rollout, learning_rate, scores or start_scores(learner, rollout, step))
    return totals | {"unread_answers": all_reduce_sum(learner.accelerator, {"unread": len(cost.unread)})["unread"]}


def _updates(learner: Learner, rollout: Rollout, learning_rate: float, scores: Scores) -> dict[str, float]:
    """`update`, but for the cost of answers."""
    config, accelerator = learner.config, learner.accelerator
    set_learning_rate(learner.optimizer, learning_rate)
    one_forward = one_forward_serves(learner, rollout)
    if not one_forward:
        score(learner, rollout, scores)
    losses, grad_norms, skipped, moved_weights = [], [], 0, MovedWeights()
    for iteration in range(config.num_iterations):
        if iteration == 0 and one_forward:
            loss = score_and_learn(learner, rollout, scores)
        else:
            loss = learn(learner, rollout, scores, on_policy=iteration == 0)
        norm = accelerator.clip_grad_norm_(learner.models.scorer.parameters(), config.max_grad_norm)
        losses.append(loss)
        grad_norms.append(float(norm))
        skipped += not step_if_finite(learner.optimizer, losses[-1], grad_norms[-1], moved_weights)
        # Once the weights have changed: an update that is abandoned before moves nothing else either.
        learner.entropy.finish_update(accelerator)

    totals = all_reduce_sum(
        accelerator,
        {
            **scores.totals,
            **kind_totals(scores.rewards[rollout.solutions], config.num_generations),
            **dataclasses.asdict(moved_weights),
        },
    )
    verified = verification_metrics(learner, rollout, scores)
    num_tokens = totals["tokens"] + verified.get("verify/num_tokens", 0)
    corrected = {}
    if config.importance_sampling_mode is not None:
        corrected["sampler_weight"] = totals["sampler_weight"] / max(1, totals["weighted"])
    return {
        **kind_metrics(totals),
        **verified,
        "clip_ratio": totals["clipped"] / (num_tokens * config.num_iterations),
        "num_tokens": num_tokens,
        "loss": fmean(losses),
        "grad_norm": fmean(grad_norms),
        "learning_rate": learning_rate,
        "skipped_updates": skipped,
        **learner.entropy.metrics,
        **corrected,
        # Of the weights with a gradient; where none has one, none was to move.
        "moved_weights": totals["moved"] / totals["counted"] if totals["counted"] else math.nan,
    }


def one_forward_serves(learner: Learner, rollout: Rollout) -> bool:
    """Tell whether the forward with gradient can score the completions too; the same on all processes."""
    config = learner.config
    fit = groups_fit(rollout, config.max_tokens_per_forward, share_prompts=shared_prompts(learner.models.scorer))
    too_large = all_reduce_max(learner.accelerator, not fit) > 0
    return bool(learner.rewards.outputs) and not too_large and config.scale_rewards != "batch"


@torch.no_grad()
def score(learner: Learner, rollout: Rollout, scores: Scores) -> None:
    """Reward all completions, after a forward without gradient if the rewards need statistics."""
    config, accelerator, scorer = learner.config, learner.accelerator, learner.models.scorer
    outputs, rows = learner.rewards.outputs, list(range(len(rollout.texts)))
    stats = TokenStats()
    if outputs:
        turns = equal_turns(accelerator, parts_of(scorer, rollout, config.max_tokens_per_forward, rows))
        parts = [each for each in turns if each is not None]
        stats = score_parts(scorer, rollout, parts, config.temperature, outputs)
        for _ in turns[len(parts) :]:
            scorer(rollout.select([0]), config.temperature, outputs=outputs)
    reward(learner, scores, rollout, rows, stats)


# ---------------------------------------------------------------- the two ways, each of which returns the step's loss


def score_and_learn(learner: Learner, rollout: Rollout, scores: Scores) -> float:
    """Accumulate the gradients of the first update, part by part: one forward gives rewards and loss of a part."""
    config, accelerator, scorer = learner.config, learner.accelerator, learner.models.scorer
    outputs = tuple(dict.fromkeys(DEFAULT_OUTPUTS + learner.rewards.outputs))
    turns = equal_turns(accelerator, parts_of(scorer, rollout, config.max_tokens_per_forward, whole_groups=True))
    learner.optimizer.zero_grad()
    loss = torch.zeros((), device=rollout.completion_ids.device)
    for index, rows in enumerate(turns):
        is_last = index + 1 == len(turns)
        with gradient_sync(learner, is_last):
            if rows is None:
                keep_in_step(learner, rollout, on_policy=True)
                continue
            part = rollout.select(rows)
            counted = scores.counted[rows, : part.completion_ids.shape[1]]
            options = part_options(learner, scores, counted)
            answer = ask_start_model(learner, part)
            stats, divergence = statistics(learner, part, outputs, answer, penalty_weights(counted, options))
            reward(learner, scores, part, rows, stats)
            weight = sampler_weight(config, part, stats.logprob, counted)
            advantages = scores.advantages[rows]
            result = loss_of_statistics(stats, divergence, advantages, None, answer, weight, counted, options)
            keep_scores(scores, part, rows, stats, answer, result.kl)
            count_tokens(learner, scores, result, counted, weight)
            # Only one process alone may leave a backward out. The last one runs anyway, so that there are gradients.
            if is_last or accelerator.num_processes > 1 or any(moved(scores, config)[row] for row in rows):
                accelerator.backward(result.loss)
            loss += result.loss.detach()
        if not is_last:
            give_back_freed_memory(loss.device)
    return mean_loss(learner, loss)


def learn(learner: Learner, rollout: Rollout, scores: Scores, *, on_policy: bool) -> float:
    """Accumulate the gradients of an update whose advantages are known, part by part.

    On-policy, which the first update from a rollout is, it also records what the policy and the start model say.
    """
    config, accelerator, scorer = learner.config, learner.accelerator, learner.models.scorer
    is_moved = moved(scores, config)
    if on_policy:
        look_forward(learner, rollout, scores, [row for row, each in enumerate(is_moved) if not each])
    rows_to_move = [row for row, each in enumerate(is_moved) if each]
    turns = equal_turns(accelerator, parts_of(scorer, rollout, config.max_tokens_per_forward, rows_to_move)) or [None]
    learner.optimizer.zero_grad()
    loss = torch.zeros((), device=rollout.completion_ids.device)
    for index, rows in enumerate(turns):
        is_last = index + 1 == len(turns)
        with gradient_sync(learner, is_last):
            if rows is None:
                keep_in_step(learner, rollout, on_policy=on_policy)
                continue
            part = rollout.select(rows)
            length = part.completion_ids.shape[1]
            if on_policy:
                old_logprob, answer = None, ask_start_model(learner, part)
            else:
                old_logprob = scores.old_logprob[rows, :length]
                answer = StartAnswer() if scores.kept is None else scores.kept.take(rows, length)
            counted = scores.counted[rows, :length]
            options = part_options(learner, scores, counted)
            if statistics_first(config, on_policy=on_policy):
                weights = penalty_weights(counted, options)
                stats, divergence = statistics(learner, part, DEFAULT_OUTPUTS, answer, weights)
                of_sampled = stats.logprob if old_logprob is None else old_logprob
                weight = sampler_weight(config, part, of_sampled, counted)
                advantages = scores.advantages[rows]
                given = (advantages, old_logprob, answer, weight, counted, options)
                result = loss_of_statistics(stats, divergence, *given)
            else:
                weight = sampler_weight(config, part, old_logprob, counted)
                advantages = scores.advantages[rows]
                inputs = LossInputs(advantages, old_logprob, answer.logprob, counted, options, weight, answer.scores)
                result = scorer(part, config.temperature, loss=inputs)
            if on_policy:
                stats = TokenStats(result.logprob, result.entropy, result.self_certainty)
                keep_scores(scores, part, rows, stats, answer, result.kl)
            count_tokens(learner, scores, result, counted, weight)
            accelerator.backward(result.loss)
            loss += result.loss.detach()
        if not is_last:
            give_back_freed_memory(loss.device)
    return mean_loss(learner, loss)


# ---------------------------------------------------------------- what both share


def moved(scores: Scores, config: TrainConfig) -> list[bool]:
    """Tell which completions the loss moves, or is told by: none of equal groups, if only advantages move any."""
    counts = scores.counted.any(dim=1)
    follows = config.use_adaptive_entropy or chooses_tokens(config)
    if follows or config.beta > 0 or config.entropy_coef != 0 or config.self_certainty_coef != 0:
        return counts.tolist()
    return (counts & (scores.advantages != 0)).tolist()


def part_options(learner: Learner, scores: Scores, counted: Tensor) -> dict[str, Any]:
    """Return `loss_options` of a part of the step, whose tokens (n, T) count where `counted` is True."""
    return loss_options(
        learner.config,
        scores.size,
        len(counted),
        int(counted.sum()),
        num_processes=learner.accelerator.num_processes,
        entropy_coef=learner.entropy.applied,
    )


def count_tokens(learner: Learner, scores: Scores, result: GRPOLoss, counted: Tensor, weight: Tensor | None) -> None:
    """Add the tokens that an update clipped, and the weights of all, to the sums of the step; show it their entropy."""
    assert result.clipped is not None
    assert result.entropy is not None
    scores.totals["clipped"] += int(result.clipped.sum())
    learner.entropy.see(result.entropy, counted, learner.config.top_entropy_quantile)
    if weight is not None:
        total: float = weight.where(counted, 0).sum().item()
        scores.totals.update({"sampler_weight": total, "weighted": int(counted.sum())})


@torch.no_grad()
def look_forward(learner: Learner, rollout: Rollout, scores: Scores, rows: list[int]) -> None:
    """Go forward only, over rows that the loss does not move: metrics and later updates want to know them too."""
    config, scorer = learner.config, learner.models.scorer
    parts = parts_of(scorer, rollout, config.max_tokens_per_forward, rows)
    for part_rows in equal_turns(learner.accelerator, parts):
        part = rollout.select(part_rows or [0])
        answer = ask_start_model(learner, part)
        nothing = torch.zeros_like(part.completion_mask, dtype=torch.float32)
        stats, divergence = statistics(learner, part, DEFAULT_OUTPUTS, answer, nothing)
        if part_rows is not None:
            keep_scores(scores, part, part_rows, stats, answer, None if divergence is None else divergence.value)


def keep_in_step(learner: Learner, rollout: Rollout, *, on_policy: bool) -> None:
    """Go forward and backward over one row that counts nothing, since another process has one more part than this.

    The start model is asked where the other process asks it: with LoRA it is the policy, whose weights FSDP shards.
    """
    row = rollout.select([0])
    if on_policy:
        ask_start_model(learner, row)
    nothing = LossInputs(
        advantages=torch.zeros(1, device=row.completion_ids.device),
        old_logprob=None,
        ref_logprob=None,
        mask=torch.zeros_like(row.completion_mask),
        options={},
    )
    learner.accelerator.backward(learner.models.scorer(row, learner.config.temperature, loss=nothing).loss)


def gradient_sync(learner: Learner, is_last: bool) -> AbstractContextManager[None]:
    """Average the gradients over the processes in the backward of the last part; those before only add to them."""
    return nullcontext() if is_last else learner.accelerator.no_sync(learner.models.scorer)


def mean_loss(learner: Learner, loss: Tensor) -> float:
    """Return the mean over the processes of what each added up: the step's loss, as `loss_options` scales it."""
    return all_reduce_sum(learner.accelerator, {"loss": loss.item()})["loss"] / learner.accelerator.num_processes
