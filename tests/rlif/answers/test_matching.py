"""Answers that are equal match, as numbers, as mathematics or as text, and others do not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlif.answers.matching import answers_match, is_mathematical, matching_answers


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


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("0.5", r"\frac{1}{2}"),
        ("1/2", "0.5"),
        ("1+x", "x+1"),
        (r"2\sqrt{2}", r"\sqrt{8}"),
        ("(x+1)^2", "x^2+2x+1"),
        (r"\{1, 2\}", r"\{2, 1\}"),
        (r"\$72", "72"),
        ("$72$", "72"),
        (r"72\text{ dollars}", "72"),
        ("x=5", "5"),
        (r"\text{Paris}", "Paris"),
        (r"\text{B}", "B"),
    ],
)
def test_mathematics_is_equal_however_it_is_written(answer: str, gold: str) -> None:
    assert answers_match(answer, gold)


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        (r"\frac{1}{3}", "0.333"),
        ("(1, 2)", "(1, 2]"),
        ("x", "y"),
        ("x+1", "x+2"),
        # What was not worked out is no answer.
        ("12+34", "46"),
        ("(12+34)", "46"),
        (r"\frac{12+34}{1}", "46"),
        (r"12 \times 3", "36"),
        # Text, though computer algebra would make something of it.
        ("2024-01-02", "2024-02-01"),
        ("2024-01-02", "2021"),
        ("b", "B"),
        ("3:2", "1.5"),
        # Several answers at once, or braces that would end the one and begin another.
        ("$72$ or $73$", "72"),
        ("72, 73", "72"),
        (r"1} \boxed{72", "72"),
        (r"1}, \boxed{72}, {1", "72"),
    ],
)
def test_what_is_not_equal_mathematics_does_not_match(answer: str, gold: str) -> None:
    assert not answers_match(answer, gold)


@pytest.mark.parametrize("text", ["7", "-1,000.5", r"\pi", "x+1", "3/4", "(1, 2)", "50%", "x^2", "x=5"])
def test_numbers_latex_and_expressions_are_mathematics(text: str) -> None:
    assert is_mathematical(text)


@pytest.mark.parametrize("text", ["Paris", "B", "7 apples", "2024-01-31", "3-4", "a}", r"\frac{1}{2", "1+" * 101 + "x"])
def test_words_choices_dates_and_what_is_broken_or_endless_are_not(text: str) -> None:
    assert not is_mathematical(text)


def test_a_sum_that_was_not_worked_out_does_not_agree_with_its_value_whichever_comes_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rlif.answers.matching.equal_mathematics", lambda answer, gold: True)
    assert matching_answers(["$12+34$", "46", "46"]) == [[0], [1, 2]]
    assert matching_answers(["46", "$12+34$", "46"]) == [[0, 2], [1]]
