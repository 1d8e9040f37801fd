"""Fused statistics of vocabulary-sized logits: log-probability, entropy, self-certainty, differentiable, in one pass.

`token_stats` takes logits, `linear_token_stats` hidden states and the head. `grpo_loss` and `linear_grpo_loss` go on to
the loss, whose gradient they have at once. `reference` defines all four in plain torch. `sample_tokens` draws tokens
and measures them. Works without a GPU and without Triton: C and torch serve there.
"""

from rlif_kernels.grpo_loss import grpo_loss
from rlif_kernels.linear_grpo_loss import linear_grpo_loss
from rlif_kernels.linear_token_stats import linear_token_stats
from rlif_kernels.policy_loss import GRPOLoss, policy_loss
from rlif_kernels.sample_tokens import SampledTokens, sample_tokens
from rlif_kernels.stats import TokenStats
from rlif_kernels.token_stats import token_stats

__all__ = [
    "GRPOLoss",
    "SampledTokens",
    "TokenStats",
    "grpo_loss",
    "linear_grpo_loss",
    "linear_token_stats",
    "policy_loss",
    "reference",
    "sample_tokens",
    "token_stats",
]
