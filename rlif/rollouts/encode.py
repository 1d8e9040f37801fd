"""Prompts as token ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rlif.answers.extract import AnswerStyle
from rlif.answers.matching import GoldAnswer
from rlif.data.prompts import Message, Prompt, answer_style_of, check_encodable
from rlif.errors import UserError
from rlif.models.language_model import LanguageModel
from rlif.rollouts.chat import apply_chat_template

# Of a token, on average over a prompt: far more than any tokenizer has. What is longer is not worth the time to cut it.
MAX_CHARACTERS = 1000


class EncodedPrompt(NamedTuple):
    """A prompt, its gold answer if it has one, and its token ids."""

    text: str
    answer: GoldAnswer | None
    ids: list[int]
    answer_style: AnswerStyle = "strict"
    """Where the answers to it are looked for."""
    content: str | Sequence[Message] | None = None
    """What was tokenized: text, or a conversation; None where nobody needs to know."""


def encode_prompts(
    language_model: LanguageModel,
    prompts: Sequence[Prompt],
    max_completion_length: int,
    *,
    argument: str = "data",
    chat: bool = False,
    system_prompt: str | None = None,
    answer_style: AnswerStyle | None = None,
) -> list[EncodedPrompt]:
    """Tokenize prompts: text as it is, with the special tokens that the tokenizer puts before it by itself (often BOS).

    Conversations go through the chat template, which writes all special tokens; so does text, as a user's message, if
    `chat` or `system_prompt` asks for it. An `answer_style` of None is that of `answer_style_of`.

    Raises:
        UserError: a prompt has no tokens, has one that the model does not know, or leaves no room for the completion
            within the positions of the model; or the chat template is missing or refuses a conversation.
    """
    style = answer_style or answer_style_of(prompts, chat=chat, system_prompt=system_prompt)
    limit = max_prompt_length(language_model, max_completion_length)
    encoded = []
    for prompt in prompts:
        where = _place(prompt, argument)
        each = encode_prompt(
            language_model, prompt, where=where, chat=chat, system_prompt=system_prompt, answer_style=style
        )
        if limit is not None and len(each.ids) > limit:
            raise UserError(
                f"{where} has {len(each.ids)} tokens, which with max_completion_length {max_completion_length} is more "
                f"than the model's {limit + max_completion_length} positions"
            )
        encoded.append(each)
    return encoded


def max_prompt_length(language_model: LanguageModel, max_completion_length: int) -> int | None:
    """Return the tokens of a prompt at most that leave room for a completion; None where positions have no bound."""
    # Of a model that reads images too, the part that reads text.
    positions = getattr(language_model.model.config.get_text_config(), "max_position_embeddings", None)
    return None if positions is None else positions - max_completion_length


def encode_prompt(
    language_model: LanguageModel,
    prompt: Prompt,
    *,
    where: str,
    chat: bool,
    system_prompt: str | None,
    answer_style: AnswerStyle,
) -> EncodedPrompt:
    """Tokenize one prompt as `encode_prompts` does, whether or not it leaves room for a completion.

    Raises:
        UserError: naming the prompt by `where`.
    """
    content = prompt.content
    is_chat = chat or system_prompt is not None or not isinstance(content, str)
    if is_chat:
        text = apply_chat_template(content, language_model.tokenizer, system_prompt=system_prompt, where=where)
    else:
        text = str(content)
    check_encodable(text, "prompt", where)
    positions = max_prompt_length(language_model, 0)
    if positions is not None and len(text) > MAX_CHARACTERS * positions:
        raise UserError(
            f"{where} has {len(text)} characters, which are more than the model's {positions} positions hold"
        )
    ids = _token_ids(language_model, text, add_special_tokens=not is_chat)
    vocab_size = language_model.model.get_input_embeddings().num_embeddings
    if not ids:
        raise UserError(f"{where} has no tokens, expected at least one; does the tokenizer belong to the model?")
    if max(ids) >= vocab_size:
        raise UserError(f"{where} has token id {max(ids)}, but the model has {vocab_size} embeddings")
    return EncodedPrompt(text, prompt.answer, ids, answer_style, content)


def check_writable(language_model: LanguageModel, name: str, text: str) -> None:
    """Find characters for which the tokenizer has only the unknown token.

    Raises:
        UserError: there are some in the text, which the message calls `name`.
    """
    tokenizer = language_model.tokenizer
    unknown = tokenizer.unk_token_id
    if unknown is None or unknown not in tokenizer(text, add_special_tokens=False)["input_ids"]:
        return
    each = next((each for each in text if unknown in tokenizer(each, add_special_tokens=False)["input_ids"]), text)
    raise UserError(f"{name}: got {text[:40]!r}, of which the tokenizer cannot write {each!r}; expected other text")


def _place(prompt: Prompt, argument: str) -> str:
    """Say which prompt it is, for messages."""
    content = prompt.content
    begins = content if isinstance(content, str) else str(content[-1]["content"])
    return f"{argument}: {prompt.where + ', ' if prompt.where else ''}prompt {begins[:40]!r}"


def _token_ids(language_model: LanguageModel, text: str, *, add_special_tokens: bool) -> list[int]:
    """Tokenize one text, without an end token that the tokenizer appends: nothing is to continue what has ended."""
    encoded = language_model.tokenizer(text, add_special_tokens=add_special_tokens, return_special_tokens_mask=True)
    ids, added = list(encoded["input_ids"]), encoded["special_tokens_mask"]
    ends = {*language_model.eos_token_ids, language_model.tokenizer.sep_token_id}
    while len(ids) > 1 and added[len(ids) - 1] and ids[-1] in ends:
        ids.pop()
    return ids


def pad_left(sequences: list[list[int]], pad_token_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Sequences of unequal length as (B, P) ids and their (B, P) bool mask, with the padding on the left."""
    length = max(map(len, sequences))
    ids = [[pad_token_id] * (length - len(sequence)) + sequence for sequence in sequences]
    mask = [[False] * (length - len(sequence)) + [True] * len(sequence) for sequence in sequences]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
