"""Sample a rollout with transformers' continuous batching.

It keeps keys and values in pages of memory, holds no padding, and puts a completion that waits into the place of one
that has ended. What it returns is what `rlif.rollouts.sample.sample` returns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from transformers import GenerationConfig
from transformers.generation import ContinuousBatchingConfig
from transformers.generation.continuous_batching.requests import GenerationOutput

from rlif.errors import UserError
from rlif.models.language_model import LanguageModel
from rlif.rollouts.decoding_check import MAX_DECODING_GAP
from rlif.rollouts.encode import EncodedPrompt, pad_left
from rlif.rollouts.rollout import Rollout
from rlif.rollouts.sample import decode
from rlif_kernels import TokenStats

# Tokens in one forward: transformers' own bound. Where attention needs a mask, it has as many rows.
MAX_BATCH_TOKENS = 8192


def sample_paged(
    language_model: LanguageModel,
    prompts: Sequence[EncodedPrompt],
    *,
    num_generations: int,
    max_completion_length: int,
    temperature: float,
    seeds: Sequence[Sequence[int]],
    top_k: int | None = None,
    top_p: float = 1.0,
    outputs: tuple[str, ...] = (),
) -> Rollout:
    """Sample `num_generations` completions of every prompt.

    The arguments are those of `rlif.rollouts.sample.sample`, but for the seeds: all together they seed torch's global
    generator, from which all completions draw, so that a prompt's completions depend on the other prompts; and for the
    outputs, which may be "logprob" alone.

    Raises:
        UserError: transformers could not generate, as when the pages of all completions are more than the memory.
    """
    # transformers has no greedy search of several sequences; drawing among one token is that.
    limits = {"temperature": temperature, "top_k": top_k or 0, "top_p": top_p} if temperature > 0 else {"top_k": 1}
    generated = generate_paged(
        language_model,
        [prompt.ids for prompt in prompts],
        ContinuousBatchingConfig(seed=one_seed(seeds), return_logprobs=bool(outputs)),
        num_return_sequences=num_generations,
        max_new_tokens=max_completion_length,
        eos_token_id=list(language_model.eos_token_ids) or -1,
        **limits,
    )
    device = language_model.device
    rows = [output.generated_tokens for output in generated]
    length = max(map(len, rows))
    completion_ids = torch.tensor([row + [language_model.pad_token_id] * (length - len(row)) for row in rows])
    completion_mask = torch.tensor([[True] * len(row) + [False] * (length - len(row)) for row in rows])
    said = [output.logprobs + [0.0] * (length - len(output.logprobs)) for output in generated] if outputs else []
    logprob = torch.tensor(said, device=device)
    repeated = [prompt for prompt in prompts for _ in range(num_generations)]
    prompt_ids, prompt_mask = pad_left([prompt.ids for prompt in repeated], language_model.pad_token_id, device)
    return Rollout(
        prompts=[prompt.text for prompt in repeated],
        answers=[prompt.answer for prompt in repeated],
        texts=decode(language_model, completion_ids, completion_mask),
        prompt_ids=prompt_ids,
        prompt_mask=prompt_mask,
        completion_ids=completion_ids.to(device),
        completion_mask=completion_mask.to(device),
        finished=torch.tensor([row[-1] in language_model.eos_token_ids for row in rows], device=device),
        num_generations=num_generations,
        stats=TokenStats(logprob=logprob) if outputs else None,
        answer_style=prompts[0].answer_style,
    )


def check_paged(language_model: LanguageModel, ids: Sequence[int]) -> None:
    """Generate a few tokens in pages: their log-probabilities must be those of one forward over all of them.

    Raises:
        UserError: they differ by more than rounding can explain, or transformers cannot generate so with this model, on
            this device.
    """
    prompt = (list(ids) * 4)[:4]
    (output,) = generate_paged(
        language_model,
        [prompt],
        ContinuousBatchingConfig(seed=0, return_logprobs=True),
        max_new_tokens=4,
        eos_token_id=-1,
        top_k=0,
    )
    tokens = torch.tensor([prompt + output.generated_tokens], device=language_model.device)
    with torch.no_grad():
        logits = language_model.model(input_ids=tokens, use_cache=False).logits[0, len(prompt) - 1 : -1]
    expected = logits.log_softmax(-1, torch.float32).gather(1, tokens[0, len(prompt) :, None]).squeeze(1)
    gap = (expected - torch.tensor(output.logprobs, device=expected.device)).abs().max()
    if not gap <= MAX_DECODING_GAP[language_model.model.dtype]:
        raise UserError(
            f"use_transformers_continuous_batching: {type(language_model.model).__name__} gives other distributions "
            f"there than in one forward (by {gap:.2f} nats); expected a model that transformers supports in continuous "
            "batching, or the flag off"
        )


def generate_paged(
    language_model: LanguageModel,
    prompts: list[list[int]],
    batching: ContinuousBatchingConfig,
    *,
    max_new_tokens: int,
    num_return_sequences: int = 1,
    **generation: object,
) -> list[GenerationOutput]:
    """Run transformers' continuous batching; the outputs of one prompt stand side by side.

    Raises:
        UserError: transformers gives up, or leaves an output out.
    """
    # Left to itself it takes a share of all memory, whatever there is to generate.
    rows, lengths = len(prompts) * num_return_sequences, [len(prompt) for prompt in prompts]
    # transformers 5.17 and older call a page a block.
    page_tokens: int = getattr(batching, "page_size", None) or batching.block_size
    batching.num_blocks = rows * math.ceil((max(lengths) + max_new_tokens) / page_tokens)
    batching.max_batch_tokens = min(max(rows, sum(lengths)), MAX_BATCH_TOKENS)
    # The attention is the user's choice, and the one that scores.
    batching.auto_switch_to_flash = False
    config = GenerationConfig(
        do_sample=True,
        max_new_tokens=max_new_tokens,
        num_return_sequences=num_return_sequences,
        pad_token_id=language_model.pad_token_id,
        **generation,
    )
    try:
        outputs = language_model.model.generate_batch(
            prompts, generation_config=config, continuous_batching_config=batching
        )
    except Exception as error:  # whatever an architecture, a device or too little memory makes transformers raise
        raise _failure(language_model, f"{type(error).__name__}: {error}") from error
    errors = [output.error for output in outputs.values() if output.error is not None]
    if errors or len(outputs) < rows:
        raise _failure(language_model, str(errors[0]) if errors else "it stopped early")
    return list(outputs.values())


def one_seed(seeds: Sequence[Sequence[int]]) -> int:
    """Return a number of 32 bits that depends on every one of the seeds."""
    return int(np.random.SeedSequence([number for seed in seeds for number in seed]).generate_state(1)[0])


def _failure(language_model: LanguageModel, reason: str) -> UserError:
    name, device = type(language_model.model).__name__, language_model.device
    return UserError(
        f"use_transformers_continuous_batching: it failed with {name} on {device}; expected a model, attention and "
        "device that transformers supports there and memory for all completions of a step, or the flag off: "
        f"{' '.join(reason.split())[:300]}"
    )
