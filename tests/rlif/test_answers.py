"""The stated answer is found, and numbers compare by value."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlif.answers import answers_match, extract_answer


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


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("7", "7"),
        (" 7 ", "7"),
        ("7.0", "7"),
        ("7.", "7"),
        (".5", "0.50"),
        ("+7", "7"),
        ("-0", "0"),
        ("1,234,567", "1234567"),
        ("007", "7"),
        (r"\frac{1}{2}", r"\frac{1}{2}"),
    ],
)
def test_equal_answers_match_both_ways(answer: str, gold: str) -> None:
    assert answers_match(answer, gold)
    assert answers_match(gold, answer)


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("7", "8"),
        ("-7", "7"),
        ("7", "7 apples"),
        ("1,2", "12"),
        ("1,23", "123"),
        ("", "0"),
        (".", "0"),
        ("-", "0"),
        ("1e2", "100"),
        ("NaN", "Infinity"),
        ("\u0667", "7"),  # a digit, but of another script
        ("a", "A"),
        ("10000000000000000000000000000000000000001", "10000000000000000000000000000000000000000"),
    ],
)
def test_unequal_answers_do_not_match(answer: str, gold: str) -> None:
    assert not answers_match(answer, gold)
    assert not answers_match(gold, answer)


@given(number=st.integers(-(10**30), 10**30), zeros=st.integers(0, 5))
def test_a_number_matches_itself_however_it_is_written(number: int, zeros: int) -> None:
    written = f"{number:+,}" + ("." + "0" * zeros if zeros else "")
    assert answers_match(written, str(number))
    assert not answers_match(written, str(number + 1))


@given(inner=st.text(alphabet="ab{}\\ ").filter(lambda text: text.strip()))
def test_the_braces_of_a_boxed_answer_are_balanced(inner: str) -> None:
    answer = extract_answer(f"x \\boxed{{{inner}}} y")
    if answer is not None:
        assert answer.count("{") == answer.count("}")


@given(text=st.text())
def test_an_extracted_answer_is_never_empty_and_never_surrounded_by_space(text: str) -> None:
    answer = extract_answer(text)
    assert answer is None or (answer and answer == answer.strip())
