"""What samples.jsonl keeps: a few completions of an evaluation or of a step, and how sure the policy was of each token.

| `split` | completions | `reward` |
| --- | --- | --- |
| `eval` | of the same held-out prompts at every evaluation, one each | null: nothing rewards them |
| `train` | of a step: those rewarded most and least, and without evaluations one of each prompt | of it |
| `verify` | of a step: a few that verify another completion | of it |
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlif.files.jsonl import Row
from rlif.rollouts.rollout import Rollout
from rlif.scoring.token_confidence import token_confidence
from rlif_kernels import TokenStats

# Prompts of which one completion is kept: enough to see what the policy is up to.
NUM_SAMPLES = 8
# Completions of a step that are kept because none was rewarded more, and because none was rewarded less.
NUM_EXTREMES = 2
# Verifications after them, of those that the policy was trained on.
NUM_VERIFICATIONS = 2


def sample_row(
    rollout: Rollout, row: int, split: str, *, reward: float | None = None, tokens: Mapping[str, object] | None = None
) -> Row:
    """Return one row of samples.jsonl, but for the step."""
    stated = rollout.stated[row]
    return {
        "prompt": rollout.prompts[row],
        "completion": rollout.texts[row],
        "stated": stated and stated.text,
        "tier": stated and stated.tier,
        "finished": bool(rollout.finished[row]),
        "answer": rollout.answers[row],
        "split": split,
        "reward": reward,
        "tokens": tokens,
    }


def step_rows(
    rollout: Rollout, rewards: Tensor, stats: TokenStats, tokenizer: PreTrainedTokenizerBase, *, one_of_each: bool
) -> list[Row]:
    """Return what is kept of a step.

    Args:
        rollout: N completions of at most T tokens, those of this process.
        rewards: (N,), NaN for a completion to which none applies.
        stats: of their tokens, (N, T), by the policy that sampled them.
        tokenizer: that decoded them.
        one_of_each: keep one completion of each of the first prompts too.
    """
    groups = rollout.num_generations
    rows = rollout.solutions[::groups][:NUM_SAMPLES] if one_of_each else []
    different = {(rollout.prompts[row], rollout.texts[row]): row for row in reversed(rollout.solutions)}
    rows += extremes(rewards.tolist(), sorted(different.values())) + rollout.verifications[::groups][:NUM_VERIFICATIONS]
    kept = []
    for row in dict.fromkeys(rows):
        reward = rewards[row].item()
        tokens = token_confidence(rollout, row, tokenizer, stats).to_json()
        split = "verify" if row in rollout.verifications else "train"
        kept.append(sample_row(rollout, row, split, reward=reward if math.isfinite(reward) else None, tokens=tokens))
    return kept


def extremes(rewards: Sequence[float], rows: Sequence[int]) -> list[int]:
    """Return the rows with the highest rewards, the highest first, and those with the lowest, the lowest last.

    Rows without a reward, which is NaN, are none of them, and none is both.
    """
    by_reward = sorted((row for row in rows if not math.isnan(rewards[row])), key=lambda row: -rewards[row])
    count = min(NUM_EXTREMES, len(by_reward) // 2)
    return by_reward[:count] + by_reward[len(by_reward) - count :]
