"""Tokens that a loss chooses by what all of its tokens say: of high entropy, or of high covariance.

All tokens of one call count, as in TRL and verl: those of a micro-batch. So a choice takes all statistics before the
first gradient, and `grpo_loss` and `linear_grpo_loss` are then statistics followed by `policy_loss`: one read of the
logits more than the fused loss, or one product with the head more, and no second forward of the model.

Nothing here carries a gradient, or has a shape that depends on values.
"""

import torch
from torch import Tensor


@torch.no_grad()
def high_entropy_tokens(entropy: Tensor, mask: Tensor, share: float) -> Tensor:
    """Choose the `share` of tokens of the highest entropy, (..., T) bool (arXiv 2506.01939).

    They are those whose entropy is at least the quantile 1 - share of all, interpolated linearly as by
    `torch.quantile`; at least one token. Ties at the quantile are all in.

    Args:
        entropy: (..., T), nats.
        mask: (..., T) bool, the tokens that count.
        share: from 0 to 1.
    """
    ordered = entropy.masked_fill(~mask, torch.inf).flatten().sort().values
    rank = (mask.sum().clamp(min=1) - 1).to(entropy.dtype) * (1 - share)
    below, above = ordered.take(rank.floor().long()), ordered.take(rank.ceil().long())
    return (entropy >= torch.lerp(below, above, rank - rank.floor())) & mask


@torch.no_grad()
def covariances(logprob: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    """Return (A - mean A) (logprob - mean logprob) of each token, (..., T), with means over all tokens of the mask.

    Its mean, times the learning rate, is by how much an update lowers the entropy (arXiv 2505.22617).
    """
    count = mask.sum().clamp(min=1)
    parts = [value.expand_as(mask).where(mask, 0) for value in (advantages, logprob)]
    centred = [part - part.sum() / count for part in parts]
    return centred[0] * centred[1]


@torch.no_grad()
def clip_cov_tokens(
    covariance: Tensor, clipped: Tensor, mask: Tensor, share: float, lowest: float, highest: float
) -> Tensor:
    """Choose the tokens whose gradient Clip-Cov leaves out, (..., T) bool (arXiv 2505.22617).

    Args:
        covariance: (..., T), of `covariances`.
        clipped: (..., T) bool, the tokens whose ratio is clipped already; none of them is chosen.
        mask: (..., T) bool, the tokens that count.
        share: of these that are chosen, rounded down but at least one; fewer where not so many lie in the range.
        lowest, highest: the open range of the covariance. Among more than enough torch's generator draws.
    """
    candidates = mask & ~clipped & (covariance > lowest) & (covariance < highest)
    return _first(torch.rand(mask.shape, device=mask.device), candidates, mask, share)


@torch.no_grad()
def kl_cov_tokens(covariance: Tensor, mask: Tensor, share: float) -> Tensor:
    """Choose the `share` of tokens of the largest covariance, rounded down but at least one, (..., T) bool."""
    return _first(-covariance, mask, mask, share)


def _first(keys: Tensor, candidates: Tensor, mask: Tensor, share: float) -> Tensor:
    """Choose the candidates with the smallest keys, as many as the share of the tokens in the mask."""
    order = keys.masked_fill(~candidates, torch.inf).flatten().argsort(stable=True)
    rank = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    count = (mask.sum().double() * share).floor().clamp(min=1)
    return (rank < count).view(mask.shape) & candidates
