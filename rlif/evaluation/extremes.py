"""The surest and the least sure completions of an evaluation, right and wrong ones: those that a person looks at first.

`rlif eval` keeps how sure the model was of each token of them, and `rlif report` shows them. What is sure goes by one
score, `ORDER`, where a file has it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from rlif.answers.extract import AnswerStyle, stated_answer
from rlif.answers.matching import is_right
from rlif.answers.math_verification import limited_cost
from rlif.errors import UserError
from rlif.files.jsonl import Row

ORDER = "self_certainty"
# Prompts of which a completion is shown, of each kind at either end.
SHOWN = 4


class End(NamedTuple):
    """One end of a kind of completions."""

    is_right: bool | None
    """The kind; None: of prompts without a gold answer."""
    is_sure: bool


ENDS = [End(kind, is_sure) for kind in (True, False, None) for is_sure in (True, False)]


def order_score(names: Collection[str]) -> str | None:
    """Return the score by which completions are sorted: `ORDER`, else the first that there is; None of none."""
    return ORDER if ORDER in names else next(iter(names), None)


def ends_of(scores: Sequence[float], kinds: Sequence[bool | None]) -> dict[End, int]:
    """Find a group's most extreme completion of each end that it has any of, the first of equal ones.

    Args:
        scores: N numbers, higher being surer.
        kinds: of the N completions, whether each is right; None of a prompt without a gold answer.
    """
    found = {}
    for end in ENDS:
        places = [place for place, kind in enumerate(kinds) if kind is end.is_right]
        if places:
            pick = max if end.is_sure else min
            found[end] = pick(places, key=scores.__getitem__)
    return found


class Extremes:
    """The most extreme completions among the rows of completions.jsonl so far.

    What is among the most extreme of all rows was so when its row came. So statistics of tokens are kept of a few
    completions, about `SHOWN` (1 + log(P / SHOWN)) at each end of P prompts, and no row is written twice.
    """

    def __init__(self, answer_style: AnswerStyle) -> None:
        self._style = answer_style
        self._scores: dict[End, list[float]] = {end: [] for end in ENDS}

    def places(self, row: Row) -> list[int]:
        """Take in a row, and return which of its completions are among the most extreme so far."""
        scores, gold = row["scores"][ORDER], row.get("answer")
        stated = [
            stated_answer(text, style=self._style, finished=finished)
            for text, finished in zip(row["completions"], row["finished"], strict=True)
        ]
        kinds = [None if gold is None else each is not None and is_right(each.text, gold) for each in stated]
        return sorted({place for end, place in ends_of(scores, kinds).items() if self._rises(end, scores[place])})

    def take(self, rows: Iterable[Row], path: Path) -> None:
        """Take in the rows that a file has already.

        Raises:
            UserError: one of them is damaged.
        """
        with limited_cost():
            for number, row in enumerate(rows, start=1):
                try:
                    self.places(row)
                except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
                    raise UserError(
                        f"resume: {path}, line {number} is damaged ({type(error).__name__}: {error}); expected what "
                        "`rlif eval` writes"
                    ) from error

    def _rises(self, end: End, score: float) -> bool:
        """Tell whether a score is among the `SHOWN` most extreme of an end; the earlier of equal ones is."""
        kept = self._scores[end]
        kept.append(score)
        kept.sort(reverse=end.is_sure)  # stable
        last = len(kept) - 1 - kept[::-1].index(score)
        del kept[SHOWN:]
        return last < SHOWN
