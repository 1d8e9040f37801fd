"""Which tokens of a completion are its answer (RLSF, arXiv 2507.21931)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from rlif.answers.places import answer_place
from rlif.models.language_model import LanguageModel
from rlif.rollouts.encode import EncodedPrompt
from rlif.rollouts.sample import sample
from rlif.scoring.answer_tokens import tokens_at

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


class AnswerSpan(NamedTuple):
    """An answer in a completion."""

    tokens: slice
    """That it was decoded from."""
    text: str


def matching_span(
    completion: Sequence[int], answer: Sequence[int], tokenizer: PreTrainedTokenizerBase, question: str = ""
) -> AnswerSpan | None:
    """Find the answer that a model named when asked in its completion: whole numbers and whole words, by value.

    The authors' code takes the longest run of tokens that both have in common, which with a token a digit is the 75 of
    0.75, and in words may be the question's. What counts here says `rlif.answers.places`.

    Args:
        completion: token ids of the completion.
        answer: token ids of what was answered; `MAX_ANSWER_LENGTH` of them are taken to be cut off.
        tokenizer: that both belong to.
        question: the text of the prompt.

    Returns:
        None if the completion does not have that answer.
    """
    ids = list(completion)
    text = tokenizer.decode(ids, skip_special_tokens=True)
    asked = tokenizer.decode(list(answer), skip_special_tokens=True)
    place = answer_place(text, asked, question=question, cut_off=len(answer) >= MAX_ANSWER_LENGTH)
    tokens = None if place is None else tokens_at(*place, ids, tokenizer)
    return None if place is None or tokens is None else AnswerSpan(tokens, text[slice(*place)])
