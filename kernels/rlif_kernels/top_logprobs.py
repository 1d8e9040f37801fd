"""What follows from the log-probabilities of a row's k largest columns: k numbers a row, in plain torch."""

from torch import Tensor


def entropy_topk(top_logprobs: Tensor) -> Tensor:
    """Compute the entropy of the k likeliest tokens among themselves: of r_i = p_i / sum of their p.

    It is what AEnt calls a clamped entropy (arXiv 2509.03493). The part that these tokens have in the whole row's
    entropy, -sum p log p, is mass (this - log mass).

    Args:
        top_logprobs: (..., k) nats, -inf where there is no such token.

    Returns:
        (...) nats, in [0, log k].
    """
    inside = top_logprobs != -float("inf")
    log_r = (top_logprobs - top_logprobs.logsumexp(-1, keepdim=True)).where(inside, 0)
    return -(log_r.exp() * log_r).where(inside, 0).sum(-1)


def mass_topk(top_logprobs: Tensor) -> Tensor:
    """Sum the probabilities of the k likeliest tokens, (...) in [0, 1] up to rounding, from (..., k) nats."""
    return top_logprobs.exp().sum(-1)
