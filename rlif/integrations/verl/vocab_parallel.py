"""verl's functions of logits whose vocabulary Megatron divides over a tensor-parallel group.

One exchange of a few numbers per row in the forward and none in the backward, where verl's have three and none. The
logits are left as they are.

Shapes: (..., V / ranks) logits, (...) ids in the whole vocabulary, (...) results, the same on every rank.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from rlif_kernels import token_stats


def _statistic(logits: Tensor, name: str, labels: Tensor | None = None) -> Tensor:
    from megatron.core import parallel_state

    group = parallel_state.get_tensor_model_parallel_group()
    if labels is None:
        labels = torch.zeros(logits.shape[:-1], dtype=torch.int64, device=logits.device)
    whole = dist.get_world_size(group) == 1
    stats = token_stats(logits, labels, outputs=(name,), group=None if whole else group)
    value: Tensor = getattr(stats, name)
    return value


def vocab_parallel_entropy(vocab_parallel_logits: Tensor) -> Tensor:
    """Compute the entropy in nats, in the logits' dtype."""
    return _statistic(vocab_parallel_logits, "entropy").to(vocab_parallel_logits.dtype)


def vocab_parallel_entropy_with_chunking(vocab_parallel_logits: Tensor, chunk_size: int = 2048) -> Tensor:
    """Compute the entropy in nats, float32. There is nothing to divide into chunks: no row leaves anything behind."""
    return _statistic(vocab_parallel_logits, "entropy")


def vocab_parallel_sum_pi_squared(vocab_parallel_logits: Tensor) -> Tensor:
    """Compute the collision probability, sum of p squared, in the logits' dtype."""
    return _statistic(vocab_parallel_logits, "sum_sq_probs").to(vocab_parallel_logits.dtype)


def vocab_parallel_log_probs_from_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute log-probabilities of the labels, float32, as Megatron's cross-entropy computes them."""
    return _statistic(logits, "logprob", labels)


FUNCTIONS = (
    vocab_parallel_entropy,
    vocab_parallel_entropy_with_chunking,
    vocab_parallel_sum_pi_squared,
    vocab_parallel_log_probs_from_logits,
)
