"""Confidence in a completion, or in a span of it: a number from the distributions p_t that its tokens y_t came from.

| score | of the T tokens that count | range |
| --- | --- | --- |
| `self_certainty` | mean KL(Uniform ‖ p_t) (Intuitor, arXiv 2505.19590) | nats, >= 0 |
| `token_entropy` | -mean H(p_t) (arXiv 2506.17219, 2505.22660) | nats, <= 0 |
| `token_varentropy` | -mean of the variance of log p_t under p_t | nats², <= 0 |
| `top_confidence` | -mean log p_t(v) over the 20 likeliest v (DeepConf, arXiv 2508.15260) | nats, >= 0 |
| `trajectory_entropy` | mean log p_t(y_t) (arXiv 2506.17219) | nats, <= 0 |
| `sequence_logprob` | sum log p_t(y_t): longer completions score lower (arXiv 2505.15134) | nats, <= 0 |
| `inverse_perplexity` | exp(mean log p_t(y_t)), the geometric mean of p_t(y_t) | [0, 1] |
| `token_probability` | mean p_t(y_t) | [0, 1] |
| `entropy_confidence` | 1 - mean H(p_t) / log V (an alternative in RLSF) | [0, 1] |
| `probability_disparity` | mean (p_t(y_t) - second-largest p_t) (RLSF, arXiv 2507.21931) | (-1, 1] |

Higher is more confident in all of them. The disparity is at most 0 where no sampled token was the likeliest. Where no
token counts every score is 0. `rlif.scoring.group_confidence` has those of stretches of a completion.

Every function takes statistics in nats as (N, T) fields of `TokenStats`, and `completion_mask`, (N, T) bool, True for
the tokens that count. It returns (N,) in the dtype of the statistics. The rewards of these names are the same functions
(`rlif.rewards.confidence`), so nothing here loads torch.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rlif.scoring.answer_tokens import answer_tokens
from rlif.scoring.group_confidence import GROUP_SCORES, TOP_GROUP_SCORES, group_scores, token_confidence

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from rlif.answers.extract import Stated
    from rlif.rollouts.rollout import Rollout
    from rlif_kernels import TokenStats

# The fields of `TokenStats` that most scores are made of.
OUTPUTS = ("logprob", "entropy", "self_certainty", "top_probs")
# Those that `confidence_scores` takes beside them.
EVALUATED_OUTPUTS = (*OUTPUTS, "varentropy", "top_logprobs")
# What `confidence_scores` says of a whole completion.
CONFIDENCE_SCORES = (
    "self_certainty",
    "token_entropy",
    "token_varentropy",
    "top_confidence",
    "trajectory_entropy",
    "sequence_logprob",
    "inverse_perplexity",
    "entropy_confidence",
    "probability_disparity",
    *GROUP_SCORES,
    *TOP_GROUP_SCORES,
)
# What `span_scores` says of a span.
SPAN_SCORES = (
    "probability_disparity",
    "token_probability",
    "entropy_confidence",
    "inverse_perplexity",
    "self_certainty",
)


def self_certainty(stats: TokenStats, completion_mask: Tensor) -> Tensor:
    """Average KL(Uniform ‖ p_t) over the tokens, in nats."""
    assert stats.self_certainty is not None
    return _mean(stats.self_certainty, completion_mask)


def token_entropy(stats: TokenStats, completion_mask: Tensor) -> Tensor:
    """Average the entropy H(p_t) over the tokens, in nats, with the sign turned."""
    assert stats.entropy is not None
    return -_mean(stats.entropy, completion_mask)


def token_varentropy(stats: TokenStats, completion_mask: Tensor) -> Tensor:
    """Average the variance of log p_t over the tokens, in nats², with the sign turned."""
    assert stats.varentropy is not None
    return -_mean(stats.varentropy, completion_mask)


def top_confidence(stats: TokenStats, completion_mask: Tensor) -> Tensor:
    """Average DeepConf's confidence in a token over the tokens, in nats."""
    return _mean(token_confidence(stats), completion_mask)


def trajectory_entropy(stats: TokenStats, completion_mask: Tensor) -> Tensor:
    """Average log p_t(y_t) over the tokens, in nats."""
    assert stats.logprob is not None
    return _mean(stats.logprob, completion_mask)


def sequence_logprob(stats: TokenStats, completion_mask: Tensor) -> Tensor:
    """Sum log p_t(y_t) over the tokens, in nats."""
    assert stats.logprob is not None
    return stats.logprob.where(completion_mask, 0).sum(dim=1)


def inverse_perplexity(stats: TokenStats, completion_mask: Tensor) -> Tensor:
    """Take the geometric mean of p_t(y_t) over the tokens."""
    # A log-probability may be rounded to a hair above 0.
    return trajectory_entropy(stats, completion_mask).exp().clamp(max=1.0).where(completion_mask.any(dim=1), 0.0)


def token_probability(stats: TokenStats, completion_mask: Tensor) -> Tensor:
    """Average p_t(y_t) over the tokens."""
    assert stats.logprob is not None
    return _mean(stats.logprob.exp(), completion_mask).clamp(max=1.0)


def entropy_confidence(stats: TokenStats, completion_mask: Tensor, vocab_size: int) -> Tensor:
    """Compare the mean entropy with log V, that of the uniform distribution; V = `vocab_size` is at least 2."""
    confidence = (1.0 + token_entropy(stats, completion_mask) / math.log(vocab_size)).clamp(0.0, 1.0)
    return confidence.where(completion_mask.any(dim=1), 0.0)


def probability_disparity(stats: TokenStats, completion_mask: Tensor) -> Tensor:
    """Average the lead of p_t(y_t) over the second-largest p_t."""
    assert stats.logprob is not None
    assert stats.top_probs is not None
    return _mean(stats.logprob.exp() - stats.top_probs[..., 1], completion_mask)


def answer_disparity(
    stats: TokenStats,
    stated: list[Stated | None],
    completion_ids: Tensor,
    completion_mask: Tensor,
    tokenizer: PreTrainedTokenizerBase,
) -> Tensor:
    """Compute `probability_disparity` of the tokens that each completion's answer was decoded from.

    A completion that states no answer gets 0.
    """
    assert stats.logprob is not None
    scores = stats.logprob.new_zeros(len(stated))
    for row, (answer, length) in enumerate(zip(stated, completion_mask.sum(dim=1).tolist(), strict=True)):
        tokens = answer_tokens(answer, completion_ids[row, :length].tolist(), tokenizer)
        if tokens is not None:
            scores[row] = probability_disparity(_span(stats, row, tokens), completion_mask[row : row + 1, tokens])[0]
    return scores


def confidence_scores(
    rollout: Rollout, tokenizer: PreTrainedTokenizerBase, vocab_size: int, window: int
) -> dict[str, Tensor]:
    """Compute `CONFIDENCE_SCORES` of N whole completions, but for the disparity, which is that of the answers' tokens.

    Args:
        rollout: sampled with `EVALUATED_OUTPUTS`.
        tokenizer: of the model.
        vocab_size: V, the columns of its logits; at least 2.
        window: tokens of a group, of the scores that are of groups.

    Returns:
        (N,) float32 each.
    """
    stats, mask = rollout.stats, rollout.completion_mask
    assert stats is not None
    return {
        "self_certainty": self_certainty(stats, mask),
        "token_entropy": token_entropy(stats, mask),
        "token_varentropy": token_varentropy(stats, mask),
        "top_confidence": top_confidence(stats, mask),
        "trajectory_entropy": trajectory_entropy(stats, mask),
        "sequence_logprob": sequence_logprob(stats, mask),
        "inverse_perplexity": inverse_perplexity(stats, mask),
        "entropy_confidence": entropy_confidence(stats, mask, vocab_size),
        "probability_disparity": answer_disparity(stats, rollout.stated, rollout.completion_ids, mask, tokenizer),
        **group_scores(stats, mask, window),
    }


def span_scores(
    stats: TokenStats, completion_mask: Tensor, row: int, span: slice | None, vocab_size: int
) -> dict[str, float]:
    """Compute `SPAN_SCORES` of one span of a completion's tokens, in float64: means of float32 could exceed 1.

    Args:
        stats: (N, T) fields of `OUTPUTS`.
        completion_mask: (N, T) bool, True on the tokens of the completions.
        row: of the completion.
        span: of its tokens; None, where there is no answer: all scores are 0.
        vocab_size: V; at least 2.
    """
    if span is None:
        return dict.fromkeys(SPAN_SCORES, 0.0)
    stats, mask = _span(stats, row, span), completion_mask[row : row + 1, span]
    stats = stats._replace(**{name: value.double() for name, value in stats._asdict().items() if value is not None})
    scores = (
        probability_disparity(stats, mask),
        token_probability(stats, mask),
        entropy_confidence(stats, mask, vocab_size),
        inverse_perplexity(stats, mask),
        self_certainty(stats, mask),
    )
    return {name: score.item() for name, score in zip(SPAN_SCORES, scores, strict=True)}


def _span(stats: TokenStats, row: int, span: slice) -> TokenStats:
    fields = {name: value[row : row + 1, span] for name, value in stats._asdict().items() if value is not None}
    return stats._replace(**fields)


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    return values.where(mask, 0).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
