"""Which tokens of a completion are its answer (RLSF, arXiv 2507.21931)."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

from transformers import PreTrainedTokenizerBase

from rlif.models.language_model import LanguageModel
from rlif.rollouts.encode import EncodedPrompt
from rlif.rollouts.sample import sample
from rlif.scoring.answer_tokens import REPLACEMENT

# Tokens of an elicited answer, as the paper has it.
MAX_ANSWER_LENGTH = 20


def elicited_answers(
    language_model: LanguageModel, prompts: Sequence[list[int]], completions: Sequence[list[int]], elicitation: str
) -> list[list[int]]:
    """What the model answers when it is asked for the answer after each completion, as token ids.

    Greedily, at most 20 tokens, without special ones.

    Args:
        language_model: in evaluation mode.
        prompts: N lists of token ids.
        completions: N completions; an EOS at their end is left out before the request.
        elicitation: the text that asks.
    """
    request = language_model.tokenizer(elicitation, add_special_tokens=False)["input_ids"]
    special = set(language_model.tokenizer.all_special_ids) | set(language_model.eos_token_ids)
    asked = [
        EncodedPrompt("", None, prompt + [token for token in completion if token not in special] + request)
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
    rollout = sample(
        language_model,
        asked,
        num_generations=1,
        max_completion_length=MAX_ANSWER_LENGTH,
        temperature=0.0,
        seeds=[(0,)] * len(asked),
    )
    lengths = rollout.completion_mask.sum(dim=1).tolist()
    rows = zip(rollout.completion_ids.tolist(), lengths, strict=True)
    return [[token for token in ids[:length] if token not in special] for ids, length in rows]


def matching_span(completion: Sequence[int], answer: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> slice | None:
    """The longest run of tokens that the completion has in common with an answer; the last one of several as long.

    Tokens are compared by their text without surrounding space, since ` 72` and `72` are different tokens of the same
    answer, and those that are a part of a character by their id. Full stops in the answer, space and punctuation alone,
    and special tokens match nothing.

    Args:
        completion: token ids of the completion.
        answer: token ids of the answer.
        tokenizer: that both belong to.

    Returns:
        The tokens of the completion, without space at either end; None if nothing matches.
    """
    special = set(tokenizer.all_special_ids)
    completion_words = [_word(token, tokenizer) for token in completion]
    answer_words = [word for token in answer if token not in special and (word := _word(token, tokenizer)) != "."]
    # Runs that no answer can be are taken out of the completion, and the rest is searched again.
    words = zip(completion, completion_words, strict=True)
    usable: list[object] = [None if token in special else word for token, word in words]
    while True:
        # Reversed, the first of several longest runs is the last: an answer stands at the end of its derivation.
        matcher = SequenceMatcher(None, usable[::-1], answer_words[::-1], autojunk=False)
        match = matcher.find_longest_match()
        if match.size == 0:
            return None
        start, end = len(completion) - match.a - match.size, len(completion) - match.a
        while start < end and completion_words[start] == "":
            start += 1
        while end > start and completion_words[end - 1] == "":
            end -= 1
        if any(_says_something(word) for word in completion_words[start:end]):
            return slice(start, end)
        usable[len(completion) - match.a - match.size : len(completion) - match.a] = [None] * match.size


def _word(token: int, tokenizer: PreTrainedTokenizerBase) -> str | int:
    """What makes two tokens the same."""
    text = tokenizer.decode([token])
    return token if REPLACEMENT in text else text.strip()


def _says_something(word: str | int) -> bool:
    return isinstance(word, int) or any(character.isalnum() for character in word)
