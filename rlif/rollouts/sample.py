"""Sample a group of completions for every prompt, in one batch, with a KV cache."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rlif.doing import doing
from rlif.models.language_model import LanguageModel, positions
from rlif.rollouts.draw import StatsRecorder, draw_tokens, most_likely, truncate, uniform_numbers
from rlif.rollouts.encode import EncodedPrompt, pad_left
from rlif.rollouts.kv_cache import reserved_cache
from rlif.rollouts.rollout import Rollout
from rlif_kernels import token_stats


@torch.no_grad()
def sample(
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
    branch: bool = False,
) -> Rollout:
    """Sample `num_generations` completions of every prompt.

    Args:
        language_model: in evaluation mode.
        prompts: B encoded prompts, of any lengths.
        num_generations: completions of each prompt.
        max_completion_length: tokens after which a completion is cut off.
        temperature: the logits are divided by it; 0 takes the most likely token.
        seeds: one for each prompt, of integers >= 0. It alone decides the random numbers of the prompt's completions:
            other prompts, their number and their order do not matter.
        top_k: draw among this many most likely tokens; None or 0: among all.
        top_p: then among the fewest most likely of these whose probabilities reach this sum; 1: among all.
        outputs: fields of `TokenStats` to compute of the logits that are there anyway, for the rollout's `stats`. They
            are those of the whole distribution at the temperature, also where `top_k` or `top_p` leaves tokens out; at
            temperature 0 those at 1. The completions are the same with and without.
        branch: begin the completions of a prompt with its `num_generations` most likely first tokens, one each, the
            most likely first, whatever the temperature; an end token is none of them (CoT-decoding, arXiv 2402.10200).

    Raises:
        UserError: more branches than there are first tokens, or logits that are not finite.
    """
    model, device = language_model.model, language_model.device
    end_ids = torch.tensor(language_model.eos_token_ids, dtype=torch.long, device=device)
    prompt_ids, prompt_mask = pad_left([prompt.ids for prompt in prompts], language_model.pad_token_id, device)
    # Each prompt goes through the model once; its keys and values then serve all completions of the group.
    cache = reserved_cache(model.config, prompt_ids.shape[1] + max_completion_length)
    with doing(f"reading {len(prompts)} prompts"):
        logits = model(
            input_ids=prompt_ids,
            attention_mask=prompt_mask.long(),
            position_ids=positions(prompt_mask),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
    first_tokens = most_likely(logits, num_generations, end_ids) if branch else None
    group = torch.arange(len(prompts), device=device).repeat_interleave(num_generations)
    cache.reorder_cache(group)
    logits, prompt_ids, prompt_mask = logits[group], prompt_ids[group], prompt_mask[group]

    rows, prompt_length = prompt_ids.shape
    position = prompt_mask.sum(dim=1, keepdim=True)
    attention_mask = torch.nn.functional.pad(prompt_mask.long(), (0, max_completion_length), value=1)
    completion_ids = prompt_ids.new_full((rows, max_completion_length), language_model.pad_token_id)
    completion_mask = prompt_mask.new_zeros(rows, max_completion_length)
    finished = prompt_mask.new_zeros(rows)
    truncated = temperature > 0 and (bool(top_k) or top_p < 1)
    uniform = uniform_numbers(seeds, num_generations, max_completion_length, device)
    recorder = StatsRecorder(outputs, completion_mask.shape) if outputs else None
    running = torch.arange(rows, device=device)  # the completions that the batch holds
    with doing(f"{rows} completions", "tokens at most", max_completion_length) as work:
        for step in range(max_completion_length):
            work.move(completed=step)
            growing = ~finished[running]
            given = first_tokens if step == 0 else None
            if given is not None:
                token = given.flatten()
            elif truncated:
                drawable = truncate(logits, temperature, top_k=top_k, top_p=top_p)
                token, _ = draw_tokens(drawable, temperature, uniform[running, step])
            else:
                token, stats = draw_tokens(logits, temperature, uniform[running, step], outputs)
            if recorder:
                if given is not None or truncated:  # what is measured is not what was drawn from
                    stats = token_stats(logits, token, temperature=temperature or 1.0, outputs=outputs)
                recorder.add(stats, running, step, growing)
            token = token.masked_fill(~growing, language_model.pad_token_id)
            completion_ids[running, step] = token
            completion_mask[running, step] = growing
            finished[running] |= torch.isin(token, end_ids)
            unfinished = (~finished[running]).nonzero().squeeze(1)
            if step + 1 == max_completion_length or len(unfinished) == 0:
                break
            # Finished completions only cost time; leaving them out moves the cache, which pays once they are the half.
            if len(unfinished) <= len(running) // 2:
                cache.reorder_cache(unfinished)
                running, token = running[unfinished], token[unfinished]
            logits = model(
                input_ids=token[:, None],
                attention_mask=attention_mask[running, : prompt_length + step + 1],
                position_ids=position[running] + step,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
    completion_ids, completion_mask = completion_ids[:, : step + 1], completion_mask[:, : step + 1]

    return Rollout(
        prompts=[prompt.text for prompt in prompts for _ in range(num_generations)],
        answers=[prompt.answer for prompt in prompts for _ in range(num_generations)],
        texts=decode(language_model, completion_ids, completion_mask),
        prompt_ids=prompt_ids,
        prompt_mask=prompt_mask,
        completion_ids=completion_ids,
        completion_mask=completion_mask,
        finished=finished,
        num_generations=num_generations,
        stats=recorder.stats(step + 1) if recorder else None,
        answer_style=prompts[0].answer_style,
    )


def decode(language_model: LanguageModel, completion_ids: Tensor, completion_mask: Tensor) -> list[str]:
    """Decode each completion to text, without special tokens."""
    lengths = completion_mask.sum(dim=1).tolist()
    rows = [ids[:length] for ids, length in zip(completion_ids.tolist(), lengths, strict=True)]
    return language_model.tokenizer.batch_decode(rows, skip_special_tokens=True)
