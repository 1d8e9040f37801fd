"""Which tokens of a chain of thought are its answer (RLSF, arXiv 2507.21931)."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

from transformers import PreTrainedTokenizerBase

from rlif.models.language_model import LanguageModel
from rlif.rewards.confidence import REPLACEMENT
from rlif.rollouts.encode import EncodedPrompt
from rlif.rollouts.sample import sample

# Tokens of an elicited answer, as the paper has it.
MAX_ANSWER_LENGTH = 20


def elicited_answers(
    language_model: LanguageModel, prompts: Sequence[list[int]], traces: Sequence[list[int]], elicitation: str
) -> list[list[int]]:
    """What the model answers when it is asked for the answer after each chain of thought, as token ids.

    Greedily, at most 20 tokens, without special ones.

    Args:
        language_model: in evaluation mode.
        prompts: N lists of token ids.
        traces: N chains of thought; an EOS at their end is left out before the question.
        elicitation: the text that asks.
    """
    question = language_model.tokenizer(elicitation, add_special_tokens=False)["input_ids"]
    special = set(language_model.tokenizer.all_special_ids) | set(language_model.eos_token_ids)
    asked = [
        EncodedPrompt("", None, prompt + [token for token in trace if token not in special] + question)
        for prompt, trace in zip(prompts, traces, strict=True)
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


def matching_span(trace: Sequence[int], answer: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> slice | None:
    """The longest run of tokens that the trace has in common with an answer; the last one of several as long.

    Tokens are compared by their text without surrounding space, since ` 72` and `72` are different tokens of the same
    answer, and those that are a part of a character by their id. Full stops in the answer, space and punctuation alone,
    and special tokens match nothing.

    Args:
        trace: token ids of the chain of thought.
        answer: token ids of the answer.
        tokenizer: that both belong to.

    Returns:
        The tokens of the trace, without space at either end; None if nothing matches.
    """
    special = set(tokenizer.all_special_ids)
    trace_words = [_word(token, tokenizer) for token in trace]
    answer_words = [word for token in answer if token not in special and (word := _word(token, tokenizer)) != "."]
    # Runs that no answer can be are taken out of the trace, and the rest is searched again.
    usable: list[object] = [None if token in special else word for token, word in zip(trace, trace_words, strict=True)]
    while True:
        # Reversed, the first of several longest runs is the last: an answer stands at the end of its derivation.
        matcher = SequenceMatcher(None, usable[::-1], answer_words[::-1], autojunk=False)
        match = matcher.find_longest_match()
        if match.size == 0:
            return None
        start, end = len(trace) - match.a - match.size, len(trace) - match.a
        while start < end and trace_words[start] == "":
            start += 1
        while end > start and trace_words[end - 1] == "":
            end -= 1
        if any(_says_something(word) for word in trace_words[start:end]):
            return slice(start, end)
        usable[len(trace) - match.a - match.size : len(trace) - match.a] = [None] * match.size


def _word(token: int, tokenizer: PreTrainedTokenizerBase) -> str | int:
    """What makes two tokens the same."""
    text = tokenizer.decode([token])
    return token if REPLACEMENT in text else text.strip()


def _says_something(word: str | int) -> bool:
    return isinstance(word, int) or any(character.isalnum() for character in word)
