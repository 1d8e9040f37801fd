"""Loops are told from solutions, and majorities from disagreement."""

from rlif.answers.agreement import majorities
from rlif.metrics.repetition import repetition


def test_repetition_is_the_share_of_pieces_seen_before() -> None:
    assert repetition([1, 2, 3]) == 0.0
    assert repetition([1, 2, 3, 4, 5]) == 0.0
    assert repetition([7] * 103) == 1.0 - 1 / 100
    # 1234, 2341, 3412, 4123, then 1234 again: one of five.
    assert repetition([1, 2, 3, 4, 1, 2, 3, 4]) == 1.0 - 4 / 5


def test_a_majority_is_the_rows_of_the_commonest_answer_by_value() -> None:
    texts = ["#### 4", "#### 5", "#### 4.0", "no answer", "nothing", "", "none", "here"]
    assert majorities(texts, 4) == [[0, 2], []]


def test_of_equally_common_answers_the_first_wins() -> None:
    assert majorities(["#### 5", "#### 4", "#### 4", "#### 5"], 4) == [[0, 3]]
