"""Attempt by attempt: sample an answer, let the discriminator judge it, and show a rejected one to the next attempt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rlif.answers.tags import read_confidence, read_tags
from rlif.evaluation.completions import VERBALIZED, completion_row
from rlif.files.jsonl import Row
from rlif.models.language_model import LanguageModel
from rlif.retry.discriminator import Discriminator
from rlif.retry.options import RetryConfig
from rlif.rollouts.batch_size import prompts_at_a_time
from rlif.rollouts.encode import EncodedPrompt
from rlif.rollouts.turns import Conversation, Turns
from rlif.scoring.confidence import EVALUATED_OUTPUTS, confidence_scores

# Prompts worked on at a time where nobody says it, on a GPU.
PROMPTS_PER_BATCH = 256


@dataclass
class Attempts(Conversation):
    """What was tried at one prompt so far. It ends by "accepted", "max_rounds" or "too_long"."""

    probabilities: list[float] = field(default_factory=list)
    """Of being right, by the discriminator; 0 where no answer is stated."""
    scores: dict[str, list[float]] = field(default_factory=dict)

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

    @property
    def turns(self) -> Turns:
        """What samples the attempts."""
        return Turns(self.language_model, self.config, (self.config.seed,), shown=self.config.show_rejected)

    def batch_size(self) -> int:
        """Return how many prompts are worked on at a time."""
        return self.config.prompts_per_batch or prompts_at_a_time(
            self.language_model,
            self.prompts,
            num_generations=1,
            max_completion_length=self.config.max_completion_length,
            at_most=PROMPTS_PER_BATCH,
        )

    def rows(self, start: int, prompts: Sequence[EncodedPrompt]) -> list[Row]:
        """Return the rows of some prompts, the first of which is number `start` of all, with all attempts at them."""
        found = [Attempts(start + offset, prompt) for offset, prompt in enumerate(prompts)]
        for _ in range(self.config.max_rounds):
            for asked in self.turns.batches(found, at_most=len(prompts)):
                self._attempt(asked)
        return [each.row() for each in found]

    def _attempt(self, asked: Sequence[tuple[Attempts, EncodedPrompt]]) -> None:
        """Sample one attempt at each prompt, and judge it."""
        config, rollout = self.config, self.turns.sample(asked, outputs=EVALUATED_OUTPUTS)
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
        for place, (each, _) in enumerate(asked):
            each.add(rollout, place)
            is_stated = each.answers[-1] is not None
            each.probabilities.append(probabilities[place] if is_stated else 0.0)
            for name, values in scores.items():
                each.scores.setdefault(name, []).append(values[place])
            if is_stated and each.probabilities[-1] >= config.threshold:
                each.end = "accepted"
            elif len(each.texts) == config.max_rounds:
                each.end = "max_rounds"
