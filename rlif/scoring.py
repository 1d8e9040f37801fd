"""One forward over prompts and completions: the statistics that reward the completions and carry the gradient."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from rlif.rollout import Rollout, positions
from rlif_kernels import TokenStats, token_stats


def completion_stats(
    model: PreTrainedModel,
    rollout: Rollout,
    *,
    temperature: float,
    outputs: tuple[str, ...] = ("logprob", "entropy", "self_certainty"),
) -> TokenStats:
    """Statistics of the distributions that each completion token was drawn from.

    The logits at position t predict token t + 1. So the statistics of the first completion token come from the last
    position of the prompt, those of the EOS from the token before it, and the last token is not fed at all: what it
    predicts was never sampled.

    Args:
        model: causal language model, in evaluation mode.
        rollout: N completions of at most T tokens.
        temperature: that of sampling; greater than 0.
        outputs: the fields to compute.

    Returns:
        (N, T) float32 fields in nats, differentiable, 0 outside the completion mask.
    """
    length = rollout.completion_ids.shape[1]
    input_ids = torch.cat([rollout.prompt_ids, rollout.completion_ids], dim=1)[:, :-1]
    # Padding on the right needs no mask, since no real token attends to what comes after it; and a mask without a hole
    # lets attention take its fast causal path.
    seen = torch.ones_like(rollout.completion_mask)
    attention_mask = torch.cat([rollout.prompt_mask, seen], dim=1)[:, :-1]
    logits = model(
        input_ids=input_ids,
        attention_mask=attention_mask.long(),
        position_ids=positions(attention_mask),
        use_cache=False,
        logits_to_keep=length,
    ).logits
    return token_stats(
        logits, rollout.completion_ids, temperature=temperature, mask=rollout.completion_mask, outputs=outputs
    )
