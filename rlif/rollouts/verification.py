"""Prompts that ask a model whether a completion is right (RISE, arXiv 2505.13445).

A verification is a completion of such a prompt; the answer that it states is its rating.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rlif.answers.extract import AnswerStyle
from rlif.answers.matching import answers_match
from rlif.answers.outcomes import Outcome
from rlif.data.prompts import Message, Prompt
from rlif.errors import UserError
from rlif.models.language_model import LanguageModel
from rlif.rollouts.encode import EncodedPrompt, check_writable, encode_prompt, max_prompt_length

# Keeps the random numbers of verifications apart from those of completions.
VERIFICATION_SEED = 20250519
# The wording is ours; what it asks for is the paper's.
TEMPLATE = """Rate the solution of the task below by its final answer. Say briefly what you find, and end with the \
rating in \\boxed{}:
{right} if the final answer is right,
{wrong} if the final answer is wrong,
{unanswered} if there is no final answer.

### Task
{prompt}

### Solution
{completion}

### End of the solution
"""
_PLACE = re.compile(r"\{(prompt|completion|right|wrong|unanswered)\}")


class VerifierOptions(Protocol):
    """What a verifier goes by, of the options of a command that verifies what it samples."""

    verify_template: str | None
    verify_ratings: tuple[str, str, str]
    verify_max_prompt_length: int | None
    max_completion_length: int
    """Of a verification too, in tokens."""
    chat: bool
    system_prompt: str | None


@dataclass(frozen=True)
class Verifier:
    """What makes the prompts of verifications and reads their ratings. Made by `make_verifier`, which checks it."""

    language_model: LanguageModel
    template: str
    ratings: tuple[str, str, str]
    """By the number of the `Outcome`."""
    max_prompt_length: int | None
    """Tokens of a prompt at most; None: any number."""
    chat: bool
    system_prompt: str | None
    answer_style: AnswerStyle
    """Where the rating is looked for."""

    def prompt(self, solved: EncodedPrompt, completion: str, outcome: Outcome | None = None) -> EncodedPrompt | None:
        """Return what asks for a verification of a completion; None if it is too long.

        Args:
            solved: the prompt that was completed, with its content.
            completion: its text, without special tokens.
            outcome: how it came out, whose rating becomes the gold answer; None: unknown.
        """
        encoded = self._encoded(solved, completion, outcome)
        too_long = self.max_prompt_length is not None and len(encoded.ids) > self.max_prompt_length
        return None if too_long else encoded

    def rating(self, answer: str) -> Outcome | None:
        """Read the answer that a verification states: how what it verifies came out; None if it is no rating."""
        return next((each for each in Outcome if answers_match(answer, self.ratings[each])), None)

    def check(self, prompts: Sequence[EncodedPrompt]) -> None:
        """Find out early whether verifications can be asked for and given.

        Raises:
            UserError: the tokenizer cannot write the template or a rating; not even an empty completion of the shortest
                prompt leaves room for a verification; or the chat template refuses.
        """
        check_writable(self.language_model, "verify_template", _PLACE.sub("", self.template))
        for rating in self.ratings:
            check_writable(self.language_model, "verify_ratings", rating)
        shortest = min(prompts, key=lambda prompt: len(prompt.ids))
        if self.prompt(shortest, "") is None:
            took = len(self._encoded(shortest, "", None).ids)
            raise UserError(
                f"verify_template: the verification of an empty completion of the shortest prompt takes {took} tokens, "
                f"expected at most {self.max_prompt_length}, as verify_max_prompt_length or the model's positions and "
                "max_completion_length say"
            )

    def _encoded(self, solved: EncodedPrompt, completion: str, outcome: Outcome | None) -> EncodedPrompt:
        assert solved.content is not None
        right, wrong, unanswered = self.ratings
        filled = {"prompt": _task(solved.content), "completion": completion, "right": right, "wrong": wrong}
        filled["unanswered"] = unanswered
        # In one pass: what stands in a completion is no place.
        text = _PLACE.sub(lambda place: filled[place[1]], self.template)
        return encode_prompt(
            self.language_model,
            Prompt(_asked(solved.content, text), None if outcome is None else self.ratings[outcome]),
            where="verify_template: a verification",
            chat=self.chat,
            system_prompt=self.system_prompt,
            answer_style=self.answer_style,
        )


def make_verifier(
    language_model: LanguageModel, options: VerifierOptions, prompts: Sequence[EncodedPrompt]
) -> Verifier:
    """Make a verifier of the completions of some prompts, checked.

    Args:
        language_model: that is asked.
        options: of the command.
        prompts: whose completions are verified.

    Raises:
        UserError: see `Verifier.check`.
    """
    bounds = [options.verify_max_prompt_length, max_prompt_length(language_model, options.max_completion_length)]
    verifier = Verifier(
        language_model,
        TEMPLATE if options.verify_template is None else options.verify_template,
        options.verify_ratings,
        min((bound for bound in bounds if bound is not None), default=None),
        options.chat,
        options.system_prompt,
        prompts[0].answer_style,
    )
    verifier.check(prompts)
    return verifier


def _task(content: str | Sequence[Message]) -> str:
    """Return what was asked, as text: of a conversation of several turns all of them, each with its role."""
    if isinstance(content, str):
        return content
    turns = [message for message in content if message["role"] != "system"]
    if len(turns) == 1:
        return str(turns[0]["content"])
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in turns)


def _asked(content: str | Sequence[Message], text: str) -> str | list[Message]:
    """Return text as content of the same form: of a conversation its system message stays."""
    if isinstance(content, str):
        return text
    return [*(message for message in content if message["role"] == "system"), {"role": "user", "content": text}]
