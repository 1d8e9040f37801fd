"""Which tokens a loss is of, and with what weight, where that takes statistics of all tokens or of the sampler."""

from __future__ import annotations

from torch import Tensor

from rlif.rollouts.rollout import Rollout
from rlif.training.options import TrainConfig
from rlif_kernels import importance_weight


def chooses_tokens(config: TrainConfig) -> bool:
    """Tell whether the loss chooses tokens by what all tokens of a forward say."""
    return config.top_entropy_quantile < 1 or config.clip_cov_ratio > 0 or config.kl_cov_ratio > 0


def statistics_first(config: TrainConfig, *, on_policy: bool) -> bool:
    """Tell whether the loss of a token is known only once a forward's statistics are: no kernel does both at once then.

    A sampler is corrected by what the policy that sampled says of the tokens, which on-policy the same forward says.
    """
    return chooses_tokens(config) or (on_policy and config.importance_sampling_mode is not None)


def sampler_weight(config: TrainConfig, part: Rollout, logprob: Tensor | None, counted: Tensor) -> Tensor | None:
    """Return the weights (n, T) that correct the sampler of a part; None where it is not to be corrected.

    Args:
        config: of the run.
        part: with the log-probabilities that the sampler had.
        logprob: (n, T) of the policy that sampled, in the forward that learns.
        counted: (n, T) bool, the tokens that count.
    """
    if config.importance_sampling_mode is None:
        return None
    assert logprob is not None
    assert part.stats is not None
    assert part.stats.logprob is not None
    return importance_weight(
        logprob,
        part.stats.logprob,
        mask=counted,
        mode=config.importance_sampling_mode,
        clip_min=config.importance_sampling_clip_min,
        clip_max=config.importance_sampling_clip_max,
    )
