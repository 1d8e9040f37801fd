"""What to do where completions state no answer, in words that every command uses. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from rlif.answers.extract import AnswerStyle
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
    if finished is not None and finished < _MOST_FINISHED:
        ways.append(f"a longer max_completion_length ({1 - finished:.0%} were cut off)")
    return "try " + "; ".join(ways)


def examples(completions: Iterable[str]) -> tuple[str, ...]:
    """Return the ends of the first few completions, each in one line."""
    shown = []
    for text in islice(completions, EXAMPLES):
        line = " ".join(one_line(text).split())
        shown.append(line if len(line) <= EXAMPLE_LENGTH else "\N{HORIZONTAL ELLIPSIS}" + line[-EXAMPLE_LENGTH:])
    return tuple(shown)
