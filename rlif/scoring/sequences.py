"""Token sequences that are already there, as the batches that a Scorer reads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rlif.models.language_model import LanguageModel
from rlif.rollouts.encode import pad_left
from rlif.rollouts.microbatches import pack, pack_sharing
from rlif.rollouts.rollout import Rollout

Ids = list[int]


def as_rollout(language_model: LanguageModel, prompts: Sequence[Ids], completions: Sequence[Ids]) -> Rollout:
    """N prompts with a completion each, as token ids, in the form of sampled ones; without their texts.

    A prompt and a completion have at least one token.
    """
    device, pad = language_model.device, language_model.pad_token_id
    prompt_ids, prompt_mask = pad_left([list(ids) for ids in prompts], pad, device)
    length = max(map(len, completions))
    return Rollout(
        prompts=[""] * len(prompts),
        answers=[None] * len(prompts),
        texts=[""] * len(prompts),
        prompt_ids=prompt_ids,
        prompt_mask=prompt_mask,
        completion_ids=torch.tensor([[*ids, *[pad] * (length - len(ids))] for ids in completions], device=device),
        completion_mask=torch.tensor([[t < len(ids) for t in range(length)] for ids in completions], device=device),
        finished=torch.tensor([ids[-1] in language_model.eos_token_ids for ids in completions], device=device),
        num_generations=1,
    )


def sequence_logprobs(
    scorer: nn.Module, language_model: LanguageModel, prompts: Sequence[Ids], completions: Sequence[Ids]
) -> Tensor:
    """log pi(completion | prompt) of N sequences in one forward: (N,) float32, nats, differentiable.

    Args:
        scorer: a `rlif.scoring.scorer.Scorer`, or what accelerate made of one.
        language_model: that the scorer scores.
        prompts: N lists of token ids.
        completions: N lists of token ids, the EOS included where there is one.
    """
    rollout = as_rollout(language_model, prompts, completions)
    return scorer(rollout, 1.0, outputs=("logprob",)).logprob.sum(dim=1)


def parts_within(
    prompts: Sequence[Ids],
    completions: Sequence[Ids],
    max_tokens: int,
    *,
    share_prompts: float = 0,
    rows_together: int = 1,
) -> list[list[int]]:
    """Rows in parts, the longest first, each within the budget as `rlif.rollouts.microbatches` counts it.

    Args:
        prompts: N lists of token ids.
        completions: N lists of token ids.
        max_tokens: of a part, which exceeds them only where rows that stay together do by themselves.
        share_prompts: of the scorer.
        rows_together: as many rows in a row stay together, as those of a pair.
    """
    units = [list(range(start, start + rows_together)) for start in range(0, len(prompts), rows_together)]
    lengths = [len(ids) for ids in prompts], [len(ids) for ids in completions]
    if share_prompts:
        return pack_sharing(units, [tuple(ids) for ids in prompts], *lengths, max_tokens, share_prompts)
    return pack(units, *lengths, max_tokens)
