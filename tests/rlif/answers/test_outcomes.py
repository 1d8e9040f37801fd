"""A completion is right, wrong or without an answer, by a gold answer or by its group."""

from __future__ import annotations

from rlif.answers.extract import stated_answer
from rlif.answers.outcomes import Outcome, gold_outcomes, majority_outcomes

RIGHT, WRONG, UNANSWERED = Outcome


def test_a_gold_answer_tells_right_from_wrong_and_without_one_nothing_is_known_of_an_answer() -> None:
    stated = [stated_answer(text) for text in ("#### 4.0", "#### 5", "five", "#### 4", "five")]
    assert gold_outcomes(stated, ["4", "4", "4", None, None]) == [RIGHT, WRONG, UNANSWERED, None, UNANSWERED]


def test_of_a_group_the_answer_that_most_agree_on_is_right_and_where_no_two_agree_none_is() -> None:
    stated = [stated_answer(text) for text in ("#### 4", "#### 5", "?", "#### 4.0", "#### 1", "#### 2", "?", "#### 3")]
    assert majority_outcomes(stated, 4) == [RIGHT, WRONG, UNANSWERED, RIGHT, None, None, UNANSWERED, None]
    assert majority_outcomes([None, None], 2) == [UNANSWERED, UNANSWERED]
