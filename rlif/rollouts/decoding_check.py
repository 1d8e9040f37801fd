"""Whether a model's distributions token by token are those of the whole text at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rlif.errors import UserError
from rlif.models.language_model import LanguageModel
from rlif.rollouts.kv_cache import reserved_cache

# Nats between two ways of computing one log-probability: well above the dtype's rounding, well below a lost context.
MAX_DECODING_GAP = {torch.float32: 0.01, torch.bfloat16: 0.3}


@torch.no_grad()
def check_decoding(language_model: LanguageModel, ids: Sequence[int]) -> None:
    """Feed a few tokens at once and one by one: sampling and scoring must see the same distributions.

    They do not with models that keep their state elsewhere than in a KV cache, or that look at later tokens.

    Raises:
        UserError: they differ by more than rounding can explain, or the model cannot be sampled from at all.
    """
    model = language_model.model
    name = type(model).__name__
    tokens = torch.tensor([(list(ids) * 4)[:4]], device=language_model.device)
    try:
        together = model(input_ids=tokens, use_cache=False).logits
        cache = reserved_cache(model.config, tokens.shape[1])
        alone = [
            model(input_ids=tokens[:, i : i + 1], past_key_values=cache, use_cache=True).logits
            for i in range(tokens.shape[1])
        ]
    except Exception as error:  # the many ways in which an architecture may lack a KV cache
        raise UserError(f"model: {name} cannot be sampled from token by token with a KV cache: {error}") from error
    gap = (together.log_softmax(-1, torch.float32) - torch.cat(alone, 1).log_softmax(-1, torch.float32)).abs().max()
    if gap.isnan():
        raise UserError(f"model: {name} gives logits that are not finite, before any training")
    if gap > MAX_DECODING_GAP[model.dtype]:
        raise UserError(
            f"model: {name} gives other distributions token by token than all at once (by {gap:.2f} nats); expected a "
            "causal language model with a KV cache"
        )
