"""Whether a model's distributions token by token, in a batch, are those of each text alone and all at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from rlif.doing import doing
from rlif.errors import UserError
from rlif.models.language_model import LanguageModel, positions
from rlif.rollouts.encode import pad_left
from rlif.rollouts.kv_cache import reserved_cache

# Nats between two ways of computing one log-probability: well above the dtype's rounding, well below a lost context.
MAX_DECODING_GAP = {torch.float32: 0.01, torch.bfloat16: 0.3}

# What the batch holds: two prompts of unequal length, and two completions of each that differ.
PROMPT_LENGTHS = (4, 2)
COMPLETION_LENGTH = 3
# The completions that do not end with their first token.
STAYING = [1, 2, 3]


@torch.no_grad()
def check_decoding(language_model: LanguageModel, ids: Sequence[int]) -> None:
    """Feed a few tokens as sampling does, as scoring does, and alone: all must see the same distributions.

    They do not with models that keep their state elsewhere than in a KV cache, that let padding into it, or that look
    at later tokens. Two prompts of unequal length with two rows each, of which one ends early, show them all: a state
    outside the cache does not follow when a prompt's row becomes two, or when a row leaves the batch.

    Args:
        ids: tokens of a prompt, at least one, to make the rows of.

    Raises:
        UserError: they differ by more than rounding can explain, or the model cannot be sampled from at all.
    """
    model = language_model.model
    name = type(model).__name__
    tokens = list(ids) * 10
    prompts = [tokens[:length] for length in PROMPT_LENGTHS]
    completions = [tokens[start : start + COMPLETION_LENGTH] for start in range(4, 8)]
    rows = [prompts[row // 2] + completion for row, completion in enumerate(completions)]
    try:
        with doing("checking how the model decodes"):
            alone = torch.cat([_alone(language_model, row) for row in rows], dim=1)
            in_batch = list(_in_batch(language_model, rows))
            one_by_one = list(_one_by_one(language_model, prompts, completions))
    except Exception as error:  # the many ways in which an architecture may lack a KV cache
        raise UserError(f"model: {name} cannot be sampled from token by token with a KV cache: {error}") from error
    if alone.isnan().any():
        raise UserError(f"model: {name} gives logits that are not finite, before any training")
    for way, values in (
        ("token by token than all at once", one_by_one),
        ("in a batch of texts of unequal length than of each alone", in_batch),
    ):
        gap = max((value - alone[step][running]).abs().max().item() for step, running, value in values)
        if not gap <= MAX_DECODING_GAP[model.dtype]:  # NaN is a difference too
            raise UserError(
                f"model: {name} gives other distributions {way} (by {gap:.2f} nats); expected a causal language model "
                "with a KV cache"
            )


def _predictions(logits: Tensor) -> Tensor:
    """(COMPLETION_LENGTH, N, V) log-probabilities at the places that predict the completions, from (N, S, V) logits."""
    return logits[:, -COMPLETION_LENGTH - 1 : -1].log_softmax(-1, torch.float32).transpose(0, 1)


def _alone(language_model: LanguageModel, row: list[int]) -> Tensor:
    ids = torch.tensor([row], device=language_model.device)
    return _predictions(language_model.model(input_ids=ids, use_cache=False).logits)


def _in_batch(language_model: LanguageModel, rows: list[list[int]]) -> Iterator[tuple[int, list[int], Tensor]]:
    """Yield each step's log-probabilities (rows, V) from one forward over all rows, as scoring does it."""
    input_ids, mask = pad_left(rows, language_model.pad_token_id, language_model.device)
    logits = language_model.model(
        input_ids=input_ids, attention_mask=mask.long(), position_ids=positions(mask), use_cache=False
    ).logits
    for step, values in enumerate(_predictions(logits)):
        yield step, list(range(len(rows))), values


def _one_by_one(
    language_model: LanguageModel, prompts: list[list[int]], completions: list[list[int]]
) -> Iterator[tuple[int, list[int], Tensor]]:
    """Yield each step's log-probabilities with a cache, as `sample` does it; the rows that leave are those left out."""
    model, device = language_model.model, language_model.device
    prompt_ids, prompt_mask = pad_left(prompts, language_model.pad_token_id, device)
    cache = reserved_cache(model.config, prompt_ids.shape[1] + COMPLETION_LENGTH)
    completion_ids = torch.tensor(completions, device=device)
    of_prompt = torch.arange(len(completions), device=device) // (len(completions) // len(prompts))
    running = list(range(len(completions)))
    input_ids, mask, position_ids = prompt_ids, prompt_mask, positions(prompt_mask)
    for step in range(COMPLETION_LENGTH):
        logits = model(
            input_ids=input_ids,
            attention_mask=mask.long(),
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        if step == 0:
            cache.reorder_cache(of_prompt)
            logits, mask, position_ids = logits[of_prompt], mask[of_prompt], position_ids[of_prompt, -1:]
        yield step, running, logits.log_softmax(-1, torch.float32)
        if step == 0:
            stay = torch.tensor(STAYING, device=device)
            cache.reorder_cache(stay)
            running, mask, position_ids = STAYING, mask[stay], position_ids[stay]
        input_ids, position_ids = completion_ids[running, step, None], position_ids + 1
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
