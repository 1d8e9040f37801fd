"""Learn from one rollout: token statistics -> rewards -> group advantages -> loss -> backward -> AdamW step.

Where the policy that sampled is still the one that learns, a single forward both scores the completions and carries the
gradient. It takes whole groups, since an advantage needs all rewards of its group. Three cases know the advantages
before that forward, and then the loss is computed with its gradient at once: rewards that need no statistics; updates
after the first from a rollout; and groups too large for one forward, or rewards scaled by the whole batch, whose
completions are scored by a forward without gradient first.
"""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, field
from statistics import fmean

import torch
from torch import Tensor

from rlif.models.optimization import set_learning_rate, step_if_finite
from rlif.rewards.advantages import equal_groups, group_advantages, unscaled_advantages
from rlif.rollouts.microbatches import groups_fit, microbatches
from rlif.rollouts.rollout import Rollout
from rlif.scoring.scorer import DEFAULT_OUTPUTS, LossInputs, score_parts
from rlif.training.distributed import batch_std, equal_parts, largest, summed
from rlif.training.learner import Learner
from rlif.training.loss_options import StepSize, loss_options
from rlif.training.options import TrainConfig
from rlif.training.validation import mean_metrics, rollout_totals
from rlif_kernels import GRPOLoss, TokenStats
from rlif_kernels.reference import policy_loss


@dataclass
class Scores:
    """What is said of a rollout's N completions of at most T tokens; nothing here carries a gradient."""

    step: int
    counted: Tensor
    """(N, T) bool: the tokens that the loss counts."""
    size: StepSize
    rewards: Tensor
    """(N,) float32."""
    advantages: Tensor
    """(N,) float32."""
    known: bool
    """Whether rewards and advantages are."""
    old_logprob: Tensor
    """(N, T) float32, of the policy that sampled; filled by the first update."""
    ref_logprob: Tensor | None
    """(N, T) float32, of the start model, filled likewise; None where beta is 0."""
    totals: Counter[str] = field(default_factory=Counter)
    """Sums for the metrics."""


def update(learner: Learner, rollout: Rollout, step: int, learning_rate: float) -> dict[str, float]:
    """Make `num_iterations` updates from the rollout of a step, which is counted from 1.

    The gradient is that of the whole step on all processes, however it is divided into parts. An update whose loss or
    gradient is not finite is left out.

    Returns:
        The step's metrics, per completion or per token (nats), over all processes.
    """
    config, accelerator = learner.config, learner.accelerator
    set_learning_rate(learner.optimizer, learning_rate)
    scores = start_scores(learner, rollout, step)
    losses, grad_norms, skipped = [], [], 0
    for iteration in range(config.num_iterations):
        loss = accumulate_gradients(learner, rollout, scores, first=iteration == 0)
        norm = accelerator.clip_grad_norm_(learner.scorer.parameters(), config.max_grad_norm)
        losses.append(loss)
        grad_norms.append(float(norm))
        skipped += not step_if_finite(learner.optimizer, losses[-1], grad_norms[-1])
        scores.known = True

    groups = scores.rewards.view(-1, config.num_generations)
    totals = summed(
        accelerator,
        {
            **scores.totals,
            "reward": scores.rewards.sum().item(),
            "groups": len(groups),
            "group_std": groups.std(dim=1).sum().item(),
            "equal_groups": equal_groups(scores.rewards, config.num_generations).sum().item(),
        },
    )
    return {
        **{name: totals[name] / totals["completions"] for name in totals if name.startswith("reward")},
        "reward_std": totals["group_std"] / totals["groups"],
        "frac_reward_zero_std": totals["equal_groups"] / totals["groups"],
        **mean_metrics(totals),
        "clip_ratio": totals["clipped"] / (totals["tokens"] * config.num_iterations),
        "num_tokens": totals["tokens"],
        "loss": fmean(losses),
        "grad_norm": fmean(grad_norms),
        "learning_rate": learning_rate,
        "skipped_updates": skipped,
    }


def start_scores(learner: Learner, rollout: Rollout, step: int) -> Scores:
    """Count the step, and judge its completions if that is done before the first update."""
    config, accelerator = learner.config, learner.accelerator
    counted = rollout.completion_mask
    if config.mask_truncated_completions:
        counted = counted & rollout.finished[:, None]
    size = summed(accelerator, {"sequences": len(counted), "tokens": counted.sum().item()})
    scores = Scores(
        step=step,
        counted=counted,
        size=StepSize(int(size["sequences"]), int(size["tokens"])),
        rewards=counted.new_zeros(len(counted), dtype=torch.float32),
        advantages=counted.new_zeros(len(counted), dtype=torch.float32),
        known=False,
        old_logprob=torch.zeros_like(counted, dtype=torch.float32),
        ref_logprob=torch.zeros_like(counted, dtype=torch.float32) if config.beta > 0 else None,
        totals=Counter(clipped=0),
    )
    outputs = learner.rewards.outputs
    too_large = largest(accelerator, not groups_fit(rollout, config.max_tokens_per_forward)) > 0
    if not outputs or too_large or config.scale_rewards == "batch":
        stats = score(learner, rollout) if outputs else TokenStats()
        judge(learner, scores, rollout, list(range(len(counted))), stats)
        scores.known = True
    return scores


@torch.no_grad()
def score(learner: Learner, rollout: Rollout) -> TokenStats:
    """The statistics, (N, T, …) each, that the rewards need, by a forward of its own."""
    config = learner.config
    everything = list(range(len(rollout.texts)))
    parts, _ = equal_parts(learner.accelerator, microbatches(rollout, everything, config.max_tokens_per_forward))
    return score_parts(learner.scorer, rollout, parts, config.temperature, learner.rewards.outputs)


def judge(learner: Learner, scores: Scores, part: Rollout, rows: list[int], stats: TokenStats) -> None:
    """Reward the completions of whole groups, and compare them within these."""
    config = learner.config
    total, by_name = learner.rewards(stats, part, tokenizer=learner.policy.tokenizer, step=scores.step)
    if config.scale_rewards == "none":
        advantages = unscaled_advantages(total, config.num_generations)
    else:
        std = batch_std(learner.accelerator, total) if config.scale_rewards == "batch" else None
        advantages = group_advantages(total, config.num_generations, std)
    scores.rewards[rows], scores.advantages[rows] = total, advantages
    scores.totals.update({f"reward/{name}": values.sum().item() for name, values in by_name.items()})


def accumulate_gradients(learner: Learner, rollout: Rollout, scores: Scores, *, first: bool) -> float:
    """Gradients of the loss over the rollout, part by part; returns the loss over all processes.

    The first of the updates from a rollout is on-policy, and leaves in `scores` what it finds out on the way.
    """
    config, accelerator, scorer = learner.config, learner.accelerator, learner.scorer
    rows = list(range(len(rollout.texts)))
    if scores.known:
        pushed = pushed_rows(scores, config)
        if first:
            look_at(learner, rollout, scores, [row for row in rows if not pushed[row]])
        rows = [row for row in rows if pushed[row]]
    parts, num_real = equal_parts(
        accelerator, microbatches(rollout, rows, config.max_tokens_per_forward, whole_groups=not scores.known)
    )
    learner.optimizer.zero_grad()
    loss = torch.zeros((), device=rollout.completion_ids.device)
    for index, rows in enumerate(parts):
        is_last, is_real = index + 1 == len(parts), index < num_real
        with nullcontext() if is_last else accelerator.no_sync(scorer):
            result = part_loss(learner, rollout, scores, rows, first=first, is_real=is_real)
            # Only one process alone may leave a backward out. The last one runs anyway, so that there are gradients.
            if is_last or accelerator.num_processes > 1 or any(pushed_rows(scores, config)[row] for row in rows):
                accelerator.backward(result.loss)
        loss += result.loss.detach()
    return summed(accelerator, {"loss": loss.item()})["loss"] / accelerator.num_processes


def part_loss(
    learner: Learner, rollout: Rollout, scores: Scores, rows: list[int], *, first: bool, is_real: bool
) -> GRPOLoss:
    """One forward of the policy: the loss of some rows, and on the first update what the scores still lack of them."""
    config, part = learner.config, rollout.select(rows)
    length = part.completion_ids.shape[1]
    counted = scores.counted[rows, :length] & is_real
    options = loss_options(
        config, scores.size, len(rows), int(counted.sum()), num_processes=learner.accelerator.num_processes
    )
    ref_logprob = reference_logprob(learner, part, scores, rows, first=first)
    old_logprob = None if first else scores.old_logprob[rows, :length]
    if scores.known or not is_real:
        inputs = LossInputs(scores.advantages[rows], old_logprob, ref_logprob, counted, options)
        result = learner.scorer(part, config.temperature, loss=inputs)
        stats = TokenStats(result.logprob, result.entropy, result.self_certainty)
    else:
        outputs = tuple(dict.fromkeys(DEFAULT_OUTPUTS + learner.rewards.outputs))
        stats = learner.scorer(part, config.temperature, outputs=outputs)
        judge(learner, scores, part, rows, stats)
        result = policy_loss(stats, scores.advantages[rows], old_logprob, ref_logprob, mask=counted, **options)
    if is_real:
        scores.totals["clipped"] += int(result.clipped.sum())
        if first:
            note(scores, part, rows, stats, ref_logprob)
    return result


def pushed_rows(scores: Scores, config: TrainConfig) -> list[bool]:
    """Which completions the loss moves: not those of a group of equal rewards if advantages are all that there is."""
    counts = scores.counted.any(dim=1)
    if config.beta > 0 or config.entropy_coef != 0 or config.self_certainty_coef != 0:
        return counts.tolist()
    return (counts & (scores.advantages != 0)).tolist()


@torch.no_grad()
def look_at(learner: Learner, rollout: Rollout, scores: Scores, rows: list[int]) -> None:
    """Forward only, for rows that the loss does not move: the metrics and later updates want to know them too."""
    parts, num_real = equal_parts(
        learner.accelerator, microbatches(rollout, rows, learner.config.max_tokens_per_forward)
    )
    for index, rows in enumerate(parts):
        if learner.accelerator.num_processes == 1 and index >= num_real:
            return
        part = rollout.select(rows)
        stats = learner.scorer(part, learner.config.temperature)
        ref_logprob = reference_logprob(learner, part, scores, rows, first=True)
        if index < num_real:
            note(scores, part, rows, stats, ref_logprob)


def reference_logprob(
    learner: Learner, part: Rollout, scores: Scores, rows: list[int], *, first: bool
) -> Tensor | None:
    """What the start model says of a part, (n, T) float32: asked once for all updates from a rollout."""
    if scores.ref_logprob is None:
        return None
    assert learner.reference is not None
    if first:
        return learner.reference.logprob(part, learner.config.temperature)
    return scores.ref_logprob[rows, : part.completion_ids.shape[1]]


def note(scores: Scores, part: Rollout, rows: list[int], stats: TokenStats, ref_logprob: Tensor | None) -> None:
    """Keep what the policy that sampled, and the start model, say of some rows."""
    assert stats.logprob is not None
    length = part.completion_ids.shape[1]
    scores.old_logprob[rows, :length] = stats.logprob.detach()
    if scores.ref_logprob is not None and ref_logprob is not None:
        scores.ref_logprob[rows, :length] = ref_logprob
    scores.totals.update(rollout_totals(part, stats, ref_logprob))
