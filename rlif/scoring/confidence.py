"""A completion's confidence, from the statistics of the pass that sampled it."""

from __future__ import annotations

import math

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlif.rewards.confidence import (
    probability_disparity,
    self_certainty,
    sequence_logprob,
    token_entropy,
    trajectory_entropy,
)
from rlif.rollouts.rollout import Rollout

# The fields of `TokenStats` that the scores are made of.
OUTPUTS = ("logprob", "entropy", "self_certainty", "top_probs")


def confidence_scores(rollout: Rollout, tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> dict[str, Tensor]:
    """Every score of N completions; higher is more confident.

    The first four, in nats, and the last are the rewards of those names (`rlif.rewards.confidence`); the others are in
    [0, 1].

    - `inverse_perplexity`: exp of the mean log-probability, the geometric mean of p_t(y_t)
    - `entropy_confidence`: 1 - mean entropy / log V (an alternative in RLSF, arXiv 2507.21931)

    Args:
        rollout: sampled with `OUTPUTS`.
        tokenizer: of the model.
        vocab_size: V, the columns of its logits; at least 2.

    Returns:
        (N,) float32 each.
    """
    stats, mask = rollout.stats, rollout.completion_mask
    assert stats is not None
    entropy, logprob = token_entropy(stats, mask), trajectory_entropy(stats, mask)
    return {
        "self_certainty": self_certainty(stats, mask),
        "token_entropy": entropy,
        "trajectory_entropy": logprob,
        "sequence_logprob": sequence_logprob(stats),
        "inverse_perplexity": logprob.exp().clamp(max=1.0),  # a logprob may be rounded to a hair above 0
        "entropy_confidence": (1.0 + entropy / math.log(vocab_size)).clamp(0.0, 1.0),
        "probability_disparity": probability_disparity(stats, rollout.texts, rollout.completion_ids, mask, tokenizer),
    }
