"""What is known of a rollout while a step learns from it: rewards, advantages, log-probabilities, sums for metrics."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rlif.rewards import load_rewards
from rlif.rewards.advantages import equal_groups, group_advantages, mean_and_std, unscaled_advantages
from rlif.rollouts.rollout import Rollout
from rlif.training.distributed import all_reduce_sum, batch_std
from rlif.training.learner import Learner
from rlif.training.loss_options import StepSize
from rlif.training.penalty import KeptAnswers, StartAnswer
from rlif.training.validation import mean_metrics, rollout_totals
from rlif_kernels import TokenStats

# Before the name of a sum of rewards, the number of completions that have one.
APPLIED = "applied/"
VERIFICATION_REWARDS = load_rewards("rise")


@dataclass
class Scores:
    """What is known of a rollout's N completions of at most T tokens; nothing here carries a gradient."""

    step: int
    counted: Tensor
    """(N, T) bool: the tokens that the loss counts."""
    size: StepSize
    rewards: Tensor
    """(N,) float64 on the CPU; NaN for a completion to which no reward applies."""
    advantages: Tensor
    """(N,) float32."""
    old_logprob: Tensor
    """(N, T) float32, of the policy that sampled; filled by the first update, as the two below are."""
    entropy: Tensor
    self_certainty: Tensor
    kept: KeptAnswers | None
    """What the start model says; filled by the first update, and None where no later one asks."""
    totals: Counter[str] = field(default_factory=Counter)
    """Sums for the metrics, of the completions that verify no other."""
    verifying: Counter[str] = field(default_factory=Counter)
    """The same of verifications."""

    @property
    def stats(self) -> TokenStats:
        """How sure the policy that sampled was of each token: what samples.jsonl keeps of a few completions."""
        return TokenStats(self.old_logprob, self.entropy, self.self_certainty)


def start_scores(learner: Learner, rollout: Rollout, step: int) -> Scores:
    """Count what the loss of the step is a mean over; nothing else is known yet."""
    config = learner.config
    counted = rollout.completion_mask
    if config.mask_truncated_completions:
        counted = counted & rollout.finished[:, None]
    size = all_reduce_sum(learner.accelerator, {"sequences": len(counted), "tokens": counted.sum().item()})
    return Scores(
        step=step,
        counted=counted,
        size=StepSize(int(size["sequences"]), int(size["tokens"])),
        rewards=torch.zeros(len(counted), dtype=torch.float64),
        advantages=counted.new_zeros(len(counted), dtype=torch.float32),
        old_logprob=torch.zeros_like(counted, dtype=torch.float32),
        entropy=torch.zeros_like(counted, dtype=torch.float32),
        self_certainty=torch.zeros_like(counted, dtype=torch.float32),
        kept=KeptAnswers(counted.shape) if config.beta > 0 and config.num_iterations > 1 else None,
        totals=Counter(clipped=0, sampler_weight=0, weighted=0),
    )


def reward(learner: Learner, scores: Scores, part: Rollout, rows: list[int], stats: TokenStats) -> None:
    """Reward the completions of whole groups, and compare them within these: solutions and verifications by themselves.

    A verification's gold answer is the rating that it should state, whatever rewards the solutions.
    """
    config, tokenizer = learner.config, learner.models.language_model.tokenizer
    kinds = [(part.solutions, learner.rewards)]
    if config.verify:
        kinds.append((part.verifications, VERIFICATION_REWARDS))
    for places, rewards in kinds:
        total = torch.zeros(0, dtype=torch.float64)
        by_name: dict[str, Tensor] = {}
        if places:
            kind, kind_stats = only(places, part, stats)
            total, by_name = rewards(kind_stats, kind, tokenizer=tokenizer, step=scores.step)
        if config.scale_rewards == "none":
            advantages = unscaled_advantages(total, config.num_generations)
        else:  # the processes meet where it is the batch, also those that have none of a kind
            std = batch_std(learner.accelerator, total) if config.scale_rewards == "batch" else None
            advantages = group_advantages(total, config.num_generations, std)
        of_kind = [rows[place] for place in places]
        scores.rewards[of_kind], scores.advantages[of_kind] = total, advantages.to(scores.advantages)
        if rewards is learner.rewards:
            for name, values in by_name.items():
                scores.totals.update(applied(f"reward/{name}", values))


def only(places: list[int], part: Rollout, stats: TokenStats) -> tuple[Rollout, TokenStats]:
    """Return some completions of a part with their statistics (n, T); the part itself where these are all."""
    if len(places) == len(part.texts):
        return part, stats
    kind = part.select(places)
    length = kind.completion_ids.shape[1]
    return kind, TokenStats(*(each if each is None else each[places, :length] for each in stats))


def applied(name: str, rewards: Tensor) -> dict[str, float]:
    """Sum up rewards (n,), and count those that there are: NaN stands for a reward that does not apply."""
    return {name: rewards.nansum().item(), f"{APPLIED}{name}": (~rewards.isnan()).sum().item()}


def reward_means(totals: Mapping[str, float]) -> dict[str, float]:
    """Return the mean of each reward over the completions to which it applies, and the share of the others, if any."""
    means = {}
    for name in [name.removeprefix(APPLIED) for name in totals if name.startswith(APPLIED)]:
        count = totals[f"{APPLIED}{name}"]
        means[name] = totals[name] / count if count else math.nan
        if count < totals["completions"]:
            means[f"not_applicable/{name.removeprefix('reward/')}"] = 1 - count / totals["completions"]
    return means


def keep_scores(
    scores: Scores, part: Rollout, rows: list[int], stats: TokenStats, answer: StartAnswer, kl: Tensor | None
) -> None:
    """Keep what the policy that sampled, and the start model, say of some rows; `kl` is the divergence from it."""
    length = part.completion_ids.shape[1]
    for kept, values in zip(scores.stats[:3], stats[:3], strict=True):
        assert kept is not None
        assert values is not None
        kept[rows, :length] = values.detach()
    if scores.kept is not None:
        scores.kept.put(rows, answer)
    full_kl = None if answer.scores is None else kl
    for places, totals in ((part.solutions, scores.totals), (part.verifications, scores.verifying)):
        if places:
            kind, kind_stats = only(places, part, stats)
            shape = kind.completion_ids.shape
            start, divergence = (
                None if each is None else each[places, : shape[1]] for each in (answer.logprob, full_kl)
            )
            totals.update(rollout_totals(kind, kind_stats, start, divergence))


def kind_totals(rewards: Tensor, num_generations: int) -> dict[str, float]:
    """Sum up the rewards (N,) of whole groups, and how they differ within these."""
    groups = rewards.view(-1, num_generations)
    return {
        **applied("reward", rewards),
        "groups": len(groups),
        "group_std": mean_and_std(groups)[1].nansum().item(),
        "equal_groups": equal_groups(rewards, num_generations).sum().item(),
    }


def kind_metrics(totals: Mapping[str, float]) -> dict[str, float]:
    """Divide the sums of solutions, or of verifications, on all processes into metrics per completion and per token."""
    return {
        **reward_means(totals),
        "reward_std": totals["group_std"] / totals["groups"],
        "frac_reward_zero_std": totals["equal_groups"] / totals["groups"],
        **mean_metrics(totals),
    }
