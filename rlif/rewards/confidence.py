"""Rewards without labels: statistics of the policy's own distributions p_t over a completion's tokens y_1..T.

The EOS counts as a token; distributions are those at the sampling temperature. These are different objectives, not
estimates of one. The log-probability rewards depend on the tokens that were drawn: the policy gradient of the *summed*
log-probability is that of the negative sequence entropy. `token_entropy` and `self_certainty` of step t do not depend
on the token drawn at t, so they act only through the tokens before it, and a step on them can raise the entropy of the
sequence.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

from rlif.answers.extract import answer_span
from rlif.rewards.interface import uses

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from rlif_kernels import TokenStats

# What a decoder puts where the bytes of a token are only a part of a character.
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@uses("self_certainty")
def self_certainty(stats: TokenStats, completion_mask: Tensor) -> Tensor:
    """Mean over the completion's tokens of KL(Uniform ‖ p_t), in nats (Intuitor, arXiv 2505.19590)."""
    assert stats.self_certainty is not None
    return _completion_mean(stats.self_certainty, completion_mask)


@uses("entropy")
def token_entropy(stats: TokenStats, completion_mask: Tensor) -> Tensor:
    """Minus the mean over the completion's tokens of the entropy H(p_t), in nats (arXiv 2506.17219, 2505.22660)."""
    assert stats.entropy is not None
    return -_completion_mean(stats.entropy, completion_mask)


@uses("logprob")
def trajectory_entropy(stats: TokenStats, completion_mask: Tensor) -> Tensor:
    """Mean over the completion's tokens of log p_t(y_t), in nats (arXiv 2506.17219)."""
    assert stats.logprob is not None
    return _completion_mean(stats.logprob, completion_mask)


@uses("logprob")
def sequence_logprob(stats: TokenStats) -> Tensor:
    """Sum over the completion's tokens of log p_t(y_t), in nats: shorter completions score higher (2505.15134)."""
    assert stats.logprob is not None
    return stats.logprob.sum(dim=1)


@uses("logprob", "top_probs")
def probability_disparity(
    stats: TokenStats,
    completions: list[str],
    completion_ids: Tensor,
    completion_mask: Tensor,
    tokenizer: PreTrainedTokenizerBase,
) -> Tensor:
    """Mean over the final answer's tokens of p_t(y_t) minus the second-largest p_t (RLSF, arXiv 2507.21931).

    The answer's tokens are those that a part of the stated answer was decoded from. In (-1, 1]; at most 0 where the
    sampled token was not the likeliest. A completion that states no answer gets 0.
    """
    assert stats.logprob is not None
    assert stats.top_probs is not None
    disparity = stats.logprob.exp() - stats.top_probs[..., 1]
    rewards = disparity.new_zeros(len(completions))
    for row, (text, length) in enumerate(zip(completions, completion_mask.sum(dim=1).tolist(), strict=True)):
        tokens = answer_tokens(text, completion_ids[row, :length].tolist(), tokenizer)
        if tokens is not None:
            rewards[row] = disparity[row, tokens].mean()
    return rewards


def answer_tokens(text: str, ids: list[int], tokenizer: PreTrainedTokenizerBase) -> slice | None:
    """The tokens that a part of the final answer was decoded from; None if the text states no answer.

    Args:
        text: what `ids` decode to, without special tokens.
        ids: of the completion, without padding.
        tokenizer: that decodes them.
    """
    span = answer_span(text)
    if span is None:
        return None

    def decoded(count: int) -> str:
        return tokenizer.decode(ids[:count], skip_special_tokens=True)

    def decoded_length(count: int) -> int:
        return len(decoded(count).rstrip(REPLACEMENT))

    # The number of whole characters grows with the tokens, so bisection finds a place in it with few decodings. The
    # bytes of one that is not whole decode to one replacement or to one each.
    counts = range(len(ids) + 1)
    first = bisect_right(counts, span[0], key=decoded_length) - 1
    while first > 0 and decoded(first).endswith(REPLACEMENT):
        first -= 1
    end = bisect_left(counts, span[1], key=decoded_length)
    return slice(first, end) if first < end else None


def _completion_mean(values: Tensor, completion_mask: Tensor) -> Tensor:
    return values.sum(dim=1) / completion_mask.sum(dim=1)
