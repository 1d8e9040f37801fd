"""Confidence in a span of tokens, from the distributions p_t that they were drawn from (RLSF, arXiv 2507.21931)."""

from __future__ import annotations

import math

from rlif_kernels import TokenStats

# The fields of `TokenStats` that `confidences` reads.
OUTPUTS = ("logprob", "entropy", "self_certainty", "top_probs")


def confidences(stats: TokenStats, row: int, span: slice | None, vocab_size: int) -> dict[str, float]:
    """The scores of the tokens y_t of one span; higher is more confident.

    Args:
        stats: (N, T) fields of `OUTPUTS`, in nats.
        row: of the completion.
        span: of its tokens; None, where there is no answer: all scores are 0.
        vocab_size: V.

    Returns:
        probability_disparity: mean of p_t(y_t) - second-largest p_t, in (-1, 1]; at most 0 where the token is not the
        likeliest. token_probability: mean of p_t(y_t). entropy_confidence: 1 - mean H(p_t) / log V. inverse_perplexity:
        exp of the mean log p_t(y_t). These three are in [0, 1]. self_certainty: mean KL(Uniform ‖ p_t), nats.
    """
    assert stats.logprob is not None
    assert stats.entropy is not None
    assert stats.self_certainty is not None
    assert stats.top_probs is not None
    if span is None:
        return dict.fromkeys(
            (
                "probability_disparity",
                "token_probability",
                "entropy_confidence",
                "inverse_perplexity",
                "self_certainty",
            ),
            0.0,
        )
    # Means in float64: those of float32 could exceed 1.
    logprob = stats.logprob[row, span].double()
    probability = logprob.exp()
    second = stats.top_probs[row, span, 1].double()
    return {
        "probability_disparity": float((probability - second).mean()),
        "token_probability": min(1.0, float(probability.mean())),
        "entropy_confidence": _in_unit_interval(
            1 - float(stats.entropy[row, span].double().mean()) / math.log(vocab_size)
        ),
        "inverse_perplexity": min(1.0, math.exp(float(logprob.mean()))),
        "self_certainty": float(stats.self_certainty[row, span].double().mean()),
    }


def _in_unit_interval(value: float) -> float:
    return min(1.0, max(0.0, value))
