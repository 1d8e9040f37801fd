"""What to do where completions state no answer, no rating or no form, in words of every command. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from rlif.answers.extract import AnswerStyle
from rlif.answers.tags import FORM
from rlif.printable import one_line

# Where fewer completions state an answer, measures of their answers say more of the others.
FEW_ANSWERED = 0.5
# Completions that are shown, and the characters of each: its end, where an answer would stand.
EXAMPLES = 3
EXAMPLE_LENGTH = 200
# Share of completions that end by themselves from which on their length is no concern.
_MOST_FINISHED = 0.8


def how_to_get_answers(style: AnswerStyle, finished: float | None = None) -> str:
    """Say what may help where few completions state an answer, as an end of a sentence.

    Args:
        style: where their answers were looked for.
        finished: the share of them that ended by themselves; None where nobody knows.
    """
    ways = []
    if style == "strict":
        ways.append("answer_style lenient, which reads prose too")
    ways.append(r"a system_prompt or prompts that ask for #### ANSWER or \boxed{ANSWER}")
    return "try " + "; ".join(ways + _longer(finished))


def how_to_get_ratings(finished: float | None = None) -> str:
    """Say what may help where few verifications state a rating, as an end of a sentence.

    Args:
        finished: the share of them that ended by themselves; None where nobody knows.
    """
    ways = ["a verify_template that shows an example, and verify_ratings in words that the model would use"]
    return "try " + "; ".join(ways + _longer(finished))


def how_to_get_form(finished: float | None = None) -> str:
    """Say what may help where no completion ends with the tags that a reward asks for, as an end of a sentence.

    Args:
        finished: the share of them that ended by themselves; None where nobody knows.
    """
    ways = [
        f"a system_prompt that asks for {FORM}, or solved problems of that form before each prompt; a model that was "
        "trained on it"
    ]
    return "try " + "; ".join(ways + _longer(finished))


def _longer(finished: float | None) -> list[str]:
    if finished is None or finished >= _MOST_FINISHED:
        return []
    return [f"a longer max_completion_length ({1 - finished:.0%} were cut off)"]


def examples(completions: Iterable[str]) -> tuple[str, ...]:
    """Return the ends of the first few completions, each in one line."""
    shown = []
    for text in islice(completions, EXAMPLES):
        line = " ".join(one_line(text).split())
        shown.append(line if len(line) <= EXAMPLE_LENGTH else "\N{HORIZONTAL ELLIPSIS}" + line[-EXAMPLE_LENGTH:])
    return tuple(shown)
