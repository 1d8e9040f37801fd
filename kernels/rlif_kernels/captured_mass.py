"""`captured_mass`: how much of the probability several targets have."""

from torch import Tensor

from rlif_kernels.stats import IGNORE_INDEX


def captured_mass(logprob: Tensor, targets: Tensor) -> Tensor:
    """Sum the probabilities of K targets, each id once, differentiable in their log-probabilities.

    Args:
        logprob: (..., K) nats, as `token_stats` gives them for these targets.
        targets: (..., K) integer ids; one of -100 is left out, and so is one that stands further to the front.

    Returns:
        (...), in [0, 1] up to rounding. The rest is what a verdict of two words, or a choice among letters, leaves to
        other tokens.
    """
    repeated = (targets[..., :, None] == targets[..., None, :]).tril(-1).any(-1)
    return logprob.exp().masked_fill(repeated | (targets == IGNORE_INDEX), 0).sum(-1)
