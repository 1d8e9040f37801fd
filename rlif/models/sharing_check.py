"""Whether a model's completions may share their prompt in a packed row: what its kind says, and then its numbers."""

from __future__ import annotations

import warnings

import torch
from transformers import PreTrainedModel

from rlif.models.fused_head import MAX_LOGIT_GAP
from rlif.models.packed_row import pack_row, packed

# The attentions of transformers that compute all scores of a mask, as those of packed rows do.
ATTENTIONS = ("eager", "sdpa", "flex_attention")
# The layers whose attention is told by a function of two positions.
LAYER_TYPES = {"full_attention", "sliding_attention", "chunked_attention"}
# Prompts and completions to try, as lengths: one alone, several, of one token, and of more than some windows.
TRIED = ((3, (2, 4, 1)), (1, (3, 3)), (5, (6,)))


def shares_prompts(model: PreTrainedModel, *, wanted: bool = True) -> bool:
    """Tell whether a model computes the same with completions that share their prompt; warn if not, though wanted.

    Args:
        model: in evaluation mode.
        wanted: whether they are to.
    """
    if not wanted:
        return False
    reason = _why_not(model)
    if reason is None:
        return True
    name = type(model).__name__
    warnings.warn(f"{name} computes a prompt again for each of its completions: {reason}", stacklevel=2)
    return False


@torch.no_grad()
def _why_not(model: PreTrainedModel) -> str | None:
    """Say what keeps a model's completions from sharing their prompt; None: nothing does."""
    config = model.config.get_text_config()
    if model._is_stateful:
        return "it is recurrent"
    if not model._supports_attention_backend:
        return "its attention cannot be replaced"
    if config._attn_implementation not in ATTENTIONS:
        return f"its attention is {config._attn_implementation}, expected one of {', '.join(ATTENTIONS)}"
    unknown = set(getattr(config, "layer_types", None) or ()) - LAYER_TYPES
    if unknown:
        return f"it has layers of type {', '.join(sorted(unknown))}"
    if getattr(config, "expert_capacity", None) is not None:
        return "its experts have a capacity, so that tokens compete for them"
    # Llama 4's layers without RoPE, which no row as short as those of `_gap` shows: their scale has steps of thousands.
    if getattr(config, "attn_temperature_tuning", False) and not all(config.no_rope_layers):
        return "its attention scales queries by their place in the row, not by their position"
    try:
        gap = _gap(model)
    except Exception as error:  # whatever an architecture makes of a mask that it does not know
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    if not gap <= MAX_LOGIT_GAP.get(model.dtype, min(MAX_LOGIT_GAP.values())):
        return f"its logits would differ by {gap:.2g} of the largest"
    return None


def _gap(model: PreTrainedModel) -> float:
    """Compare the logits of a packed row with those of separate ones: their largest gap over the largest logit."""
    tokens, numbers = model.get_input_embeddings().num_embeddings, iter(range(1, 1_000_000))

    def made_up(length: int) -> list[int]:
        return [next(numbers) * 7919 % tokens for _ in range(length)]

    groups = [(made_up(prompt), [made_up(length) for length in lengths]) for prompt, lengths in TRIED]
    prompts = [prompt for prompt, completions in groups for _ in completions]
    completions = [ids for _, completions in groups for ids in completions]
    row = pack_row(prompts, completions, model.device)
    with packed(model, row):
        together = model(**row.inputs()).logits[0].float()
    found, expected = [], []
    for prompt, ids, places, end in zip(prompts, completions, row.places, row.prompt_ends, strict=True):
        alone = model(input_ids=torch.tensor([prompt + ids], device=model.device), use_cache=False).logits[0].float()
        expected.append(alone)
        found.append(together[[*range(end + 1 - len(prompt), end + 1), *places]])
    gap = (torch.cat(found) - torch.cat(expected)).abs().max()
    return float(gap / torch.cat(expected).abs().max().clamp(min=1e-6))
