"""A group agrees on its most common answer, by value."""

from rlif.answers.agreement import majorities
from rlif.answers.extract import stated_answer


def test_a_majority_is_the_rows_of_the_commonest_answer_by_value() -> None:
    texts = ["#### 4", "#### 5", "#### 4.0", "no answer", "nothing", "", "none", "here"]
    assert majorities([stated_answer(text) for text in texts], 4) == [[0, 2], []]


def test_of_equally_common_answers_the_first_wins() -> None:
    texts = ["#### 5", "#### 4", "#### 4", "#### 5"]
    assert majorities([stated_answer(text) for text in texts], 4) == [[0, 3]]
