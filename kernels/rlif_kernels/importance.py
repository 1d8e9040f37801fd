"""The correction for a sampler whose probabilities are not the policy's: a weight for each token of the loss.

An inference engine, another precision or a cache of keys and values gives each token a slightly other probability than
the forward that learns. The weight is the ratio of the two, bounded: truncated importance sampling (TIS), or masked
(MIS). Names and values are those of TRL's `vllm_importance_sampling_mode`.
"""

import torch
from torch import Tensor

IMPORTANCE_SAMPLING_MODES = ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")


@torch.no_grad()
def importance_weight(
    logprob: Tensor,
    sampler_logprob: Tensor,
    *,
    mask: Tensor,
    mode: str = "token_truncate",
    clip_min: float | None = None,
    clip_max: float | None = 3.0,
) -> Tensor:
    """Return what `token_weight` of a loss corrects a sampler with: (..., T), detached; 1 in tokens that do not count.

    Args:
        logprob: (..., T), of the policy that the sampler was to sample from, nats.
        sampler_logprob: (..., T), of the sampler, nats; NaN where it is not known: the token's ratio is then 1.
        mask: (..., T) bool, the tokens that count.
        mode: "token_…": the ratio of each token; "sequence_…": the product of them all, for each of its tokens.
            "…_truncate": at least `clip_min` and at most `clip_max`; "…_mask": 0 outside these.
        clip_min, clip_max: None: no such bound.

    Raises:
        ValueError: the mode is not known.
    """
    if mode not in IMPORTANCE_SAMPLING_MODES:
        raise ValueError(f"mode is {mode!r}; expected one of {IMPORTANCE_SAMPLING_MODES}")
    difference = (logprob - sampler_logprob).nan_to_num(nan=0.0).where(mask, 0)
    if mode.startswith("sequence"):
        difference = difference.sum(-1, keepdim=True).expand_as(difference)
    ratio = difference.exp()
    if mode.endswith("truncate"):
        if clip_min is not None or clip_max is not None:
            ratio = ratio.clamp(clip_min, clip_max)
    else:
        if clip_min is not None:
            ratio = ratio.masked_fill(ratio < clip_min, 0)
        if clip_max is not None:
            ratio = ratio.masked_fill(ratio > clip_max, 0)
    return ratio.masked_fill(~mask, 1)
