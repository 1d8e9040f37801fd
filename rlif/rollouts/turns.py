"""Turn by turn: an attempt at each prompt, which the next one sees, with what the user says to it in between.

So a model tries again (DRR, arXiv 2501.01457) and looks back on what it did (recursive introspection, 2407.18219).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from rlif.data.prompts import Message, Prompt
from rlif.errors import UserError
from rlif.models.language_model import LanguageModel
from rlif.rollouts.batch_size import prompts_at_a_time
from rlif.rollouts.encode import EncodedPrompt, encode_prompt, max_prompt_length
from rlif.rollouts.rollout import Rollout
from rlif.rollouts.sample import sample

TOO_LONG = "too_long"


@dataclass
class Conversation:
    """The attempts at one prompt so far."""

    number: int
    """Of the prompt."""
    prompt: EncodedPrompt
    """With its content."""
    texts: list[str] = field(default_factory=list)
    answers: list[str | None] = field(default_factory=list)
    """That each attempt states; None where it states none."""
    tokens: list[int] = field(default_factory=list)
    """Of each attempt."""
    finished: list[bool] = field(default_factory=list)
    end: str | None = None
    """Why there are no more attempts; None: there may be."""

    def add(self, rollout: Rollout, row: int) -> None:
        """Add a completion as the next attempt."""
        stated = rollout.stated[row]
        self.texts.append(rollout.texts[row])
        self.answers.append(None if stated is None else stated.text)
        self.tokens.append(int(rollout.completion_mask[row].sum()))
        self.finished.append(bool(rollout.finished[row]))


C = TypeVar("C", bound=Conversation)


class TurnOptions(Protocol):
    """How attempts are sampled: options of a command."""

    max_completion_length: int
    top_k: int
    top_p: float
    chat: bool
    system_prompt: str | None
    feedback: str

    @property
    def temperature(self) -> float | None:
        """0 is greedy. With None nothing can be sampled."""


@dataclass(frozen=True)
class Turns:
    """A model that attempts prompts turn by turn."""

    language_model: LanguageModel
    options: TurnOptions
    seeds: tuple[int, ...]
    """Which random numbers these attempts have: those of a prompt depend on its number and the turn besides."""
    window: int | None = None
    """Turns that an attempt sees, its own included: the prompt and the last window - 1 attempts. None: all."""
    shown: bool = True
    """Whether an attempt sees those before it; without, it sees the prompt alone."""

    def batches(
        self, conversations: Sequence[C], *, num_generations: int = 1, at_most: int
    ) -> Iterator[list[tuple[C, EncodedPrompt]]]:
        """Yield what the next attempts continue, so many conversations at a time as can be sampled together.

        Conversations that are at their end are left out, and so are those that come to it here: where the context
        leaves no room for an attempt. Nothing is cut.

        Args:
            conversations: to be continued.
            num_generations: attempts at each.
            at_most: conversations at a time on a GPU.
        """
        asked = [(each, prompt) for each in conversations if (prompt := self.context(each)) is not None]
        while asked:  # contexts grow, so that fewer fit at a time
            size = prompts_at_a_time(
                self.language_model,
                [prompt for _, prompt in asked],
                num_generations=num_generations,
                max_completion_length=self.options.max_completion_length,
                at_most=at_most,
            )
            yield asked[:size]
            asked = asked[size:]

    def context(self, conversation: Conversation) -> EncodedPrompt | None:
        """Return what the next attempt continues; None where there is none."""
        if conversation.end is not None:
            return None
        if not conversation.texts or not self.shown:
            return conversation.prompt
        before = conversation.texts if self.window is None else conversation.texts[1 - self.window :]
        encoded = self.with_attempts(conversation.prompt, before)
        limit = max_prompt_length(self.language_model, self.options.max_completion_length)
        if limit is not None and len(encoded.ids) > limit:
            conversation.end = TOO_LONG
            return None
        return encoded

    def with_attempts(self, prompt: EncodedPrompt, attempts: Sequence[str]) -> EncodedPrompt:
        """Tokenize a prompt followed by attempts at it, whether or not it leaves room for another one.

        In a conversation each is a turn of the assistant, and the user answers with the feedback. A model without
        conversations reads prompt, attempt and feedback as one text, and then the prompt again.

        Raises:
            UserError: the chat template refuses such a conversation.
        """
        content, options = prompt.content, self.options
        assert content is not None
        longer: str | Sequence[Message]
        if isinstance(content, str) and not options.chat and options.system_prompt is None:
            longer = content + "".join(f"{text}\n\n{options.feedback}\n\n{content}" for text in attempts)
        else:
            messages: list[Message] = [{"role": "user", "content": content}] if isinstance(content, str) else [*content]
            for text in attempts:
                messages += [{"role": "assistant", "content": text}, {"role": "user", "content": options.feedback}]
            longer = messages
        return encode_prompt(
            self.language_model,
            Prompt(longer, prompt.answer),
            where=f"data: prompt {prompt.text[:40]!r} with an earlier attempt",
            chat=options.chat,
            system_prompt=options.system_prompt,
            answer_style=prompt.answer_style,
        )

    def sample(
        self,
        asked: Sequence[tuple[Conversation, EncodedPrompt]],
        num_generations: int = 1,
        outputs: tuple[str, ...] = (),
    ) -> Rollout:
        """Sample attempts that continue some contexts, without adding them to the conversations.

        Args:
            asked: of `batches`.
            num_generations: attempts at each.
            outputs: see `rlif.rollouts.sample.sample`.
        """
        options = self.options
        assert options.temperature is not None
        return sample(
            self.language_model,
            [prompt for _, prompt in asked],
            num_generations=num_generations,
            max_completion_length=options.max_completion_length,
            temperature=options.temperature,
            seeds=[(*self.seeds, each.number, len(each.texts)) for each, _ in asked],
            top_k=options.top_k,
            top_p=options.top_p,
            outputs=outputs,
        )

    def check(self, prompts: Sequence[EncodedPrompt]) -> None:
        """Find out early whether there can be a second turn.

        Args:
            prompts: to be attempted.

        Raises:
            UserError: the chat template refuses an attempt and the feedback to it; or not even an empty attempt at the
                shortest prompt leaves room for another one.
        """
        self.with_attempts(prompts[0], ["1"])
        shortest = self.with_attempts(min(prompts, key=lambda prompt: len(prompt.ids)), [""])
        limit = max_prompt_length(self.language_model, self.options.max_completion_length)
        if limit is not None and len(shortest.ids) > limit:
            raise UserError(
                f"feedback: with it after an empty attempt the shortest prompt takes {len(shortest.ids)} tokens, which "
                f"with max_completion_length {self.options.max_completion_length} is more than the model's "
                f"{limit + self.options.max_completion_length} positions"
            )
