"""Options of asking a model whether a completion is right, and their checks. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rlif.answers.extract import extract_answer
from rlif.answers.matching import matching_answers
from rlif.errors import UserError
from rlif.options.checks import Count


@dataclass(kw_only=True)
class VerificationOptions:
    """How a model is asked to verify a completion."""

    heading: ClassVar[str] = "verification"

    verify_template: str | None = None
    """What asks for a verification: text with {prompt} and {completion} in it, and where wanted the ratings, {right},
    {wrong} and {unanswered}. It is the user's message where prompts go through a chat template. None: a text that asks
    for a brief analysis, and then for the rating in \\boxed{}."""

    verify_ratings: tuple[str, str, str] = ("1", "-0.5", "-1")
    """The answers that verifications are to state: for a completion that is right, one that is wrong, and one without
    an answer. The paper takes the reward itself."""

    verify_max_prompt_length: Count | None = None
    """Tokens of a verification's prompt at most. A completion for which they do not suffice is not verified; nothing is
    cut. None: what the model's positions leave."""


def check_verification(options: VerificationOptions) -> None:
    """Check what can be checked without a model.

    Raises:
        UserError: a template with no place for the prompt or the completion; ratings that are no answers, or that
            cannot be told apart.
    """
    template, ratings = options.verify_template, options.verify_ratings
    for place in ("{prompt}", "{completion}"):
        if template is not None and place not in template:
            raise UserError(f"verify_template: got {template!r}, expected text with {{prompt}} and {{completion}}")
    for rating in ratings:
        if extract_answer(f"#### {rating}") != rating:
            raise UserError(f"verify_ratings: got {rating!r}, expected an answer that can stand behind ####")
    if len(matching_answers(ratings)) < len(ratings):
        raise UserError(f"verify_ratings: got {', '.join(map(repr, ratings))}, expected three different answers")
