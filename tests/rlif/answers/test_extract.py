"""The answer that a text states last is found, whole and without space around it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlif.answers.extract import extract_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("5+8=13\n#### 13", "13"),
        ("####13", "13"),
        ("#### 1 \n and then some", "1"),
        ("#### 1\n#### 2", "2"),
        ("#### 1\n#### ", None),
        ("####", None),
        ("the answer is 13", None),
        ("", None),
        (r"so \boxed{13}.", "13"),
        (r"\boxed{1}, no, \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}} done", r"\{1, 2\}"),
        (r"\boxed{1} and \boxed{2", "1"),
        (r"\boxed{1", None),
        (r"\boxed{}", None),
        ("\\boxed{1}\n#### 2", "2"),
    ],
)
def test_the_last_stated_answer_is_extracted(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


@given(inner=st.text(alphabet="ab{}\\ ").filter(lambda text: text.strip()))
def test_the_braces_of_a_boxed_answer_are_balanced(inner: str) -> None:
    answer = extract_answer(f"x \\boxed{{{inner}}} y")
    if answer is not None:
        assert answer.count("{") == answer.count("}")


@given(text=st.text())
def test_an_extracted_answer_is_never_empty_and_never_surrounded_by_space(text: str) -> None:
    answer = extract_answer(text)
    assert answer is None or (answer and answer == answer.strip())
