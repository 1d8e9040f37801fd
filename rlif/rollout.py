"""Sample a group of completions for every prompt, in one batch, with a KV cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from rlif.chat import apply_chat_template
from rlif.data import Prompt
from rlif.errors import UserError
from rlif.kv_cache import reserved_cache
from rlif.models import LanguageModel
from rlif.sampling import StatsRecorder, draw, most_likely, truncate, uniform_numbers
from rlif_kernels import TokenStats, token_stats

# Nats between two ways of computing one log-probability: well above the dtype's rounding, well below a lost context.
MAX_DECODING_GAP = {torch.float32: 0.01, torch.bfloat16: 0.3}


class EncodedPrompt(NamedTuple):
    """A prompt, its gold answer if it has one, and its token ids."""

    text: str
    answer: str | None
    ids: list[int]


@dataclass(frozen=True)
class Rollout:
    """N = prompts x num_generations sampled completions, those of one prompt side by side."""

    prompts: list[str]
    """N prompts, each repeated for every completion of it."""
    answers: list[str | None]
    """N gold answers, likewise."""
    texts: list[str]
    """N completions as text, without special tokens."""
    prompt_ids: Tensor
    """(N, P) int64, padded on the left."""
    prompt_mask: Tensor
    """(N, P) bool, False on padding."""
    completion_ids: Tensor
    """(N, T) int64, padded on the right."""
    completion_mask: Tensor
    """(N, T) bool: True up to and including the EOS, False after it."""
    finished: Tensor
    """(N,) bool: whether the completion reached its EOS; the others were cut off."""
    num_generations: int
    """Completions of one prompt."""
    stats: TokenStats | None = None
    """(N, T) float32 fields (`top_probs` has two), 0 outside the mask: of the distributions that the tokens were drawn
    from, as far as `sample` was asked for them."""

    def lengths(self) -> tuple[list[int], list[int]]:
        """Tokens of each prompt and of each completion."""
        return self.prompt_mask.sum(dim=1).tolist(), self.completion_mask.sum(dim=1).tolist()

    def select(self, rows: Sequence[int]) -> Rollout:
        """These completions, in this order, with no more padding than they need."""
        index = torch.tensor(list(rows), device=self.prompt_ids.device)
        prompt_mask, completion_mask = self.prompt_mask[index], self.completion_mask[index]
        first = prompt_mask.shape[1] - int(prompt_mask.sum(dim=1).max())
        length = int(completion_mask.sum(dim=1).max())
        fields = self.stats or ()
        return Rollout(
            prompts=[self.prompts[row] for row in rows],
            answers=[self.answers[row] for row in rows],
            texts=[self.texts[row] for row in rows],
            prompt_ids=self.prompt_ids[index, first:],
            prompt_mask=prompt_mask[:, first:],
            completion_ids=self.completion_ids[index, :length],
            completion_mask=completion_mask[:, :length],
            finished=self.finished[index],
            num_generations=self.num_generations,
            stats=self.stats and TokenStats(*(field if field is None else field[index, :length] for field in fields)),
        )


def encode_prompts(
    language_model: LanguageModel,
    prompts: Sequence[Prompt],
    max_completion_length: int,
    *,
    argument: str = "data",
    chat: bool = False,
    system_prompt: str | None = None,
) -> list[EncodedPrompt]:
    """Tokenize prompts: text as it is, with the special tokens that the tokenizer adds by itself (often BOS).

    Conversations go through the chat template, which writes all special tokens; so does text, as a user's message, if
    `chat` or `system_prompt` asks for it.

    Raises:
        UserError: a prompt has no tokens, has one that the model does not know, or leaves no room for the completion
            within the positions of the model; or the chat template is missing or refuses a conversation.
    """
    model = language_model.model
    vocab_size = model.get_input_embeddings().num_embeddings
    # Of a model that reads images too, the part that reads text.
    max_positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    encoded = []
    for prompt in prompts:
        content = prompt.content
        begins = content if isinstance(content, str) else str(content[-1]["content"])
        where = f"{argument}: {prompt.where + ', ' if prompt.where else ''}prompt {begins[:40]!r}"
        is_chat = chat or system_prompt is not None or not isinstance(content, str)
        if is_chat:
            text = apply_chat_template(content, language_model.tokenizer, system_prompt=system_prompt, where=where)
        else:
            text = str(content)
        ids = language_model.tokenizer(text, add_special_tokens=not is_chat)["input_ids"]
        if not ids:
            raise UserError(f"{where} has no tokens, expected at least one; does the tokenizer belong to the model?")
        if max(ids) >= vocab_size:
            raise UserError(f"{where} has token id {max(ids)}, but the model has {vocab_size} embeddings")
        if max_positions is not None and len(ids) + max_completion_length > max_positions:
            raise UserError(
                f"{where} has {len(ids)} tokens, which with max_completion_length {max_completion_length} is more than "
                f"the model's {max_positions} positions"
            )
        encoded.append(EncodedPrompt(text, prompt.answer, ids))
    return encoded


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
    for step in range(max_completion_length):
        growing = ~finished[running]
        given = step == 0 and first_tokens is not None
        if given:
            assert first_tokens is not None
            token = first_tokens.flatten()
        elif truncated:
            drawable = truncate(logits, temperature, top_k=top_k, top_p=top_p)
            token, _ = draw(drawable, temperature, uniform[running, step])
        else:
            token, stats = draw(logits, temperature, uniform[running, step], outputs)
        if recorder:
            if given or truncated:  # what is measured is not what was drawn from
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
    )


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


def pad_left(sequences: list[list[int]], pad_token_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Sequences of unequal length as (B, P) ids and their (B, P) bool mask, with the padding on the left."""
    length = max(map(len, sequences))
    ids = [[pad_token_id] * (length - len(sequence)) + sequence for sequence in sequences]
    mask = [[False] * (length - len(sequence)) + [True] * len(sequence) for sequence in sequences]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def positions(mask: Tensor) -> Tensor:
    """(N, S) position ids that count the True places of a (N, S) mask from 0; padding on the left gets 0."""
    return (mask.cumsum(dim=1) - 1).clamp(min=0)


def decode(language_model: LanguageModel, completion_ids: Tensor, completion_mask: Tensor) -> list[str]:
    """Each completion as text, without special tokens."""
    lengths = completion_mask.sum(dim=1).tolist()
    rows = [ids[:length] for ids, length in zip(completion_ids.tolist(), lengths, strict=True)]
    return language_model.tokenizer.batch_decode(rows, skip_special_tokens=True)
