"""Attempt by attempt: sample an answer, let the discriminator judge it, and show a rejected one to the next attempt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from rlif.answers.tags import read_confidence, read_tags
from rlif.data.prompts import Message, Prompt
from rlif.evaluation.completions import VERBALIZED, completion_row
from rlif.files.jsonl import Row
from rlif.models.language_model import LanguageModel
from rlif.retry.discriminator import Discriminator
from rlif.retry.options import RetryConfig
from rlif.rollouts.batch_size import prompts_at_a_time
from rlif.rollouts.encode import EncodedPrompt, encode_prompt, max_prompt_length
from rlif.rollouts.sample import sample
from rlif.scoring.confidence import EVALUATED_OUTPUTS, confidence_scores

# Prompts worked on at a time where nobody says it, on a GPU.
PROMPTS_PER_BATCH = 256
End = Literal["accepted", "max_rounds", "too_long"]


@dataclass
class Attempts:
    """What was tried at one prompt so far."""

    number: int
    """Of the prompt."""
    prompt: EncodedPrompt
    texts: list[str] = field(default_factory=list)
    answers: list[str | None] = field(default_factory=list)
    """That each attempt states; None where it states none."""
    probabilities: list[float] = field(default_factory=list)
    """Of being right, by the discriminator; 0 where no answer is stated."""
    scores: dict[str, list[float]] = field(default_factory=dict)
    tokens: list[int] = field(default_factory=list)
    finished: list[bool] = field(default_factory=list)
    end: End | None = None
    """Why there are no more; None: there will be."""

    def row(self) -> Row:
        """Return the prompt's row of attempts.jsonl, which has the form of a completions.jsonl."""
        return completion_row(
            self.prompt.text,
            self.prompt.answer,
            self.texts,
            self.scores,
            tokens=self.tokens,
            finished=self.finished,
            stated=self.answers,
            probabilities=self.probabilities,
            end=self.end,
        )


@dataclass(frozen=True)
class Retrying:
    """A model, prompts and a discriminator, checked."""

    config: RetryConfig
    language_model: LanguageModel
    prompts: list[EncodedPrompt]
    discriminator: Discriminator

    def batch_size(self) -> int:
        """Return how many prompts are worked on at a time."""
        return self.config.prompts_per_batch or self._at_a_time(self.prompts, PROMPTS_PER_BATCH)

    def rows(self, start: int, prompts: Sequence[EncodedPrompt]) -> list[Row]:
        """Return the rows of some prompts, the first of which is number `start` of all, with all attempts at them."""
        found = [Attempts(start + offset, prompt) for offset, prompt in enumerate(prompts)]
        for _ in range(self.config.max_rounds):
            asked = [(each, prompt) for each in found if (prompt := self._next_prompt(each)) is not None]
            while asked:  # prompts grow, so that fewer fit at a time
                size = self._at_a_time([prompt for _, prompt in asked], len(prompts))
                self._attempt(asked[:size])
                asked = asked[size:]
        return [each.row() for each in found]

    def _at_a_time(self, prompts: Sequence[EncodedPrompt], at_most: int) -> int:
        return prompts_at_a_time(
            self.language_model,
            prompts,
            num_generations=1,
            max_completion_length=self.config.max_completion_length,
            at_most=at_most,
        )

    def _next_prompt(self, attempts: Attempts) -> EncodedPrompt | None:
        """Return what the next attempt at a prompt continues; None where there is none."""
        if attempts.end is not None:
            return None
        if not attempts.texts or not self.config.show_rejected:
            return attempts.prompt
        encoded = with_rejected(self.language_model, attempts.prompt, attempts.texts, self.config)
        limit = max_prompt_length(self.language_model, self.config.max_completion_length)
        if limit is not None and len(encoded.ids) > limit:
            attempts.end = "too_long"
            return None
        return encoded

    def _attempt(self, asked: Sequence[tuple[Attempts, EncodedPrompt]]) -> None:
        """Sample one attempt at each prompt, and judge it."""
        config = self.config
        assert config.temperature is not None
        rollout = sample(
            self.language_model,
            [prompt for _, prompt in asked],
            num_generations=1,
            max_completion_length=config.max_completion_length,
            temperature=config.temperature,
            seeds=[(config.seed, each.number, len(each.texts)) for each, _ in asked],
            top_k=config.top_k,
            top_p=config.top_p,
            outputs=EVALUATED_OUTPUTS,
        )
        tensors = confidence_scores(
            rollout,
            self.language_model.tokenizer,
            self.language_model.vocab_size,
            self.discriminator.confidence_window,
        )
        scores = {name: values.tolist() for name, values in tensors.items()}
        if VERBALIZED in self.discriminator.scores:
            scores[VERBALIZED] = [read_confidence(read_tags(text).confidence) or 0.0 for text in rollout.texts]
        probabilities = self.discriminator.probabilities(scores).tolist()
        lengths, finished = rollout.completion_mask.sum(dim=1).tolist(), rollout.finished.tolist()
        for place, (each, _) in enumerate(asked):
            stated = rollout.stated[place]
            probability = 0.0 if stated is None else probabilities[place]
            each.texts.append(rollout.texts[place])
            each.answers.append(None if stated is None else stated.text)
            each.probabilities.append(probability)
            each.tokens.append(lengths[place])
            each.finished.append(finished[place])
            for name, values in scores.items():
                each.scores.setdefault(name, []).append(values[place])
            if stated is not None and probability >= config.threshold:
                each.end = "accepted"
            elif len(each.texts) == config.max_rounds:
                each.end = "max_rounds"


def with_rejected(
    language_model: LanguageModel, prompt: EncodedPrompt, rejected: Sequence[str], config: RetryConfig
) -> EncodedPrompt:
    """Tokenize a prompt followed by rejected attempts at it, whether or not it leaves room for another one.

    In a conversation each is a turn of the assistant, and the user answers with `config.feedback`. A model without
    conversations reads prompt, attempt and feedback as one text, and then the prompt again.

    Raises:
        UserError: the chat template refuses such a conversation.
    """
    content = prompt.content
    assert content is not None
    longer: str | Sequence[Message]
    if isinstance(content, str) and not config.chat and config.system_prompt is None:
        longer = content + "".join(f"{text}\n\n{config.feedback}\n\n{content}" for text in rejected)
    else:
        messages: list[Message] = [{"role": "user", "content": content}] if isinstance(content, str) else [*content]
        for text in rejected:
            messages += [{"role": "assistant", "content": text}, {"role": "user", "content": config.feedback}]
        longer = messages
    return encode_prompt(
        language_model,
        Prompt(longer, prompt.answer),
        where=f"data: prompt {prompt.text[:40]!r} with a rejected attempt",
        chat=config.chat,
        system_prompt=config.system_prompt,
        answer_style=prompt.answer_style,
    )
