"""Several analyses of one answer: what a model says of its confidence is averaged over them (RLCR, arXiv 2507.16806).

A completion is kept up to the end of its answer. What follows, the analysis and the confidence between tags, is drawn
again, and the mean of the confidences that are stated is a score of the completion.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rlif.answers.tags import read_confidence, read_tags
from rlif.models.language_model import LanguageModel
from rlif.rollouts.encode import EncodedPrompt, max_prompt_length
from rlif.rollouts.rollout import Rollout
from rlif.rollouts.sample import sample
from rlif.scoring.answer_tokens import tokens_at

END_OF_ANSWER = "</answer>"


class Answered(NamedTuple):
    """A completion up to the end of its answer."""

    row: int
    """Of the rollout."""
    ids: list[int]
    """Of the prompt and the completion so far."""
    kept: int
    """How many of them are the completion's."""
    room: int
    """Tokens that the completion might still have had."""


def mean_confidences(
    language_model: LanguageModel,
    rollout: Rollout,
    *,
    analyses: int,
    max_completion_length: int,
    temperature: float,
    seeds: Sequence[Sequence[int]],
    top_k: int | None = None,
    top_p: float = 1.0,
) -> list[float]:
    """Return the mean confidence that each completion states in several analyses, its own and others that are drawn.

    Args:
        language_model: that drew the completions.
        rollout: of N completions.
        analyses: how many a completion has in all, at least 2.
        max_completion_length: tokens of a completion with any of its analyses.
        temperature, top_k, top_p: as of the completions.
        seeds: one for each completion, of integers >= 0, which alone decides its random numbers.

    Returns:
        N numbers from 0 to 1. Analyses that state no confidence do not count; a completion without an answer between
        tags, or whose analyses all state none, has 0.
    """
    own = [_confidence(text) for text in rollout.texts]
    stated = [[] if confidence is None else [confidence] for confidence in own]
    answered = list(_answered(language_model, rollout, max_completion_length))
    # As many rows at a time as the completions were.
    size = max(1, len(rollout.texts) // (analyses - 1))
    while answered:
        batch, length = answered[:size], max(each.room for each in answered[:size])
        limit = max_prompt_length(language_model, length)
        if limit is not None and max(len(each.ids) for each in batch) > limit:
            batch, length = answered[:1], answered[0].room  # alone it fits: its prompt was held to that
        answered = answered[len(batch) :]
        drawn = sample(
            language_model,
            [EncodedPrompt("", None, each.ids) for each in batch],
            num_generations=analyses - 1,
            max_completion_length=length,
            temperature=temperature,
            seeds=[seeds[each.row] for each in batch],
            top_k=top_k,
            top_p=top_p,
        )
        _, lengths = drawn.lengths()
        for place, (ids, count) in enumerate(zip(drawn.completion_ids.tolist(), lengths, strict=True)):
            each = batch[place // (analyses - 1)]
            # Other completions may have had more room; what stands beyond one's own is not there.
            whole = each.ids[len(each.ids) - each.kept :] + ids[: min(count, each.room)]
            confidence = _confidence(language_model.tokenizer.decode(whole, skip_special_tokens=True))
            if confidence is not None:
                stated[each.row].append(confidence)
    return [sum(each) / len(each) if each else 0.0 for each in stated]


def _answered(language_model: LanguageModel, rollout: Rollout, max_completion_length: int) -> Iterator[Answered]:
    """Yield the completions that have an answer between tags, and room for more behind it."""
    prompt_lengths, lengths = rollout.lengths()
    rows = zip(rollout.prompt_ids.tolist(), prompt_lengths, rollout.completion_ids.tolist(), lengths, strict=True)
    for row, (prompt, prompt_length, completion, length) in enumerate(rows):
        text = rollout.texts[row]
        answer = read_tags(text).answer
        if answer is None:
            continue
        end = text.index(END_OF_ANSWER, answer[1]) + len(END_OF_ANSWER)
        tokens = tokens_at(0, end, completion[:length], language_model.tokenizer)
        assert tokens is not None
        room = max_completion_length - tokens.stop
        if room > 0:
            ids = prompt[len(prompt) - prompt_length :] + completion[: tokens.stop]
            yield Answered(row, ids, tokens.stop, room)


def _confidence(text: str) -> float | None:
    return read_confidence(read_tags(text).confidence)
