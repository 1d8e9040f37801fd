"""Fused statistics of vocabulary-sized logits: log-probability, entropy, self-certainty, differentiable, in one pass.

`token_stats` is the op; `reference` is its definition in plain torch. Works without a GPU and without Triton: the
torch backend serves there.
"""

from rlif_kernels import reference
from rlif_kernels.stats import TokenStats
from rlif_kernels.token_stats import token_stats

__all__ = ["TokenStats", "reference", "token_stats"]
