"""Answers that are equal match, as numbers, as mathematics or as text, and others do not."""

import json
import random
from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlif.answers.matching import answers_match, is_right, matching_answers

CASES = [json.loads(line) for line in Path(__file__).with_name("cases.jsonl").read_text(encoding="utf-8").splitlines()]
KINDS = sorted({case["kind"] for case in CASES})
# Right answers that are not read as such: sets by a condition, sums of units, derivatives as names.
MISSED = {r"\{x|x>5\}", "18 dollars and 50 cents", "2 hours 30 minutes", r"\frac{dy}{dx}=2x"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_pair_gets_the_right_verdict_both_ways(kind: str) -> None:
    wrong = [
        case
        for case in CASES
        if case["kind"] == kind and case["answer"] not in MISSED
        for pair in ((case["answer"], case["gold"]), (case["gold"], case["answer"]))
        if is_right(*pair) != case["right"]
    ]
    assert wrong == []


def test_no_wrong_answer_is_taken_and_hardly_a_right_one_missed() -> None:
    right = [is_right(case["answer"], case["gold"]) for case in CASES if case["right"]]
    assert sum(right) >= 0.98 * len(right)
    assert not any(is_right(case["answer"], case["gold"]) for case in CASES if not case["right"])


def test_there_are_many_pairs_of_many_kinds_in_both_directions() -> None:
    assert len(CASES) >= 400
    assert len(KINDS) >= 20
    assert {(kind, right) for kind in KINDS for right in (True, False)} == {(c["kind"], c["right"]) for c in CASES}


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
        ("1e2", "100"),
        ("42 apples", "42"),
        ("7 more apples", "7"),
        ("7 left", "7"),
        ("90°", "90"),
        ("50%", "0.5"),
    ],
)
def test_the_same_answer_is_the_same_however_it_is_written(answer: str, gold: str) -> None:
    assert answers_match(answer, gold)
    assert answers_match(gold, answer)


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("7", "8"),
        ("-7", "7"),
        ("1,2", "12"),
        ("1,23", "123"),
        ("", "0"),
        (".", "0"),
        ("-", "0"),
        ("e5", "5"),
        ("NaN", "Infinity"),
        ("\u0667", "7"),  # a digit, but of another script
        ("a", "A"),
        ("10000000000000000000000000000000000000001", "10000000000000000000000000000000000000000"),
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
        # A unit is a part of the answer for a vote; `is_right` takes one of them without.
        ("7 cm", "7"),
        ("50%", "50"),
    ],
)
def test_different_answers_do_not_match(answer: str, gold: str) -> None:
    assert not answers_match(answer, gold)
    assert not answers_match(gold, answer)


@given(number=st.integers(-(10**30), 10**30), zeros=st.integers(0, 5))
def test_a_number_matches_itself_however_it_is_written(number: int, zeros: int) -> None:
    written = f"{number:+,}" + ("." + "0" * zeros if zeros else "")
    assert answers_match(written, str(number))
    assert not answers_match(written, str(number + 1))


@given(
    numerator=st.integers(-(10**12), 10**12),
    denominator=st.integers(1, 10**12),
    other=st.integers(-(10**12), 10**12),
)
def test_fractions_in_lowest_terms_match_if_and_only_if_they_are_equal(
    numerator: int, denominator: int, other: int
) -> None:
    one = rf"\frac{{{numerator}}}{{{denominator}}}"
    assert answers_match(one, one)
    assert not answers_match(one, rf"\frac{{{other}}}{{{denominator}}}") or other == numerator


# Answers as models write them, of which many say the same.
NUMBERS = st.one_of(
    st.integers(-12, 12).map(str),
    st.sampled_from(["0.5", ".50", r"\frac{1}{2}", "1/2", "50%", "2.0", "1,000", "1e3", "10^3", r"\sqrt{4}", "2^{3}"]),
)
ANSWERS = st.one_of(
    NUMBERS,
    st.tuples(st.sampled_from(["x=", "y = ", "-", "$", r"\$", "12+", r"\text{", "**", "(", ""]), NUMBERS).map("".join),
    st.tuples(NUMBERS, st.sampled_from(["%", " cm", r"\text{ m}", " apples", "x", r"\pi", ".", "^2", "!", "}"])).map(
        "".join
    ),
    st.lists(NUMBERS, min_size=2, max_size=3).map(", ".join),
    st.lists(NUMBERS, min_size=2, max_size=3).map(lambda parts: f"({','.join(parts)})"),
    st.lists(NUMBERS, min_size=2, max_size=3).map("+".join),
    st.tuples(NUMBERS, NUMBERS).map("=".join),
    st.sampled_from([case[name] for case in CASES for name in ("answer", "gold") if r"\sum" not in case[name]]),
    st.text(alphabet="12x+-*/^=(),{}$%\\. abAB", max_size=12),
)


@given(one=ANSWERS, two=ANSWERS, three=ANSWERS)
def test_being_the_same_is_an_equivalence(one: str, two: str, three: str) -> None:
    assert answers_match(one, one)
    assert answers_match(one, two) == answers_match(two, one)
    assert not (answers_match(one, two) and answers_match(two, three)) or answers_match(one, three)
    assert answers_match(one, two) <= is_right(one, two)
    assert is_right(one, two) == is_right(two, one)


@given(answers=st.lists(ANSWERS, min_size=2, max_size=5), seed=st.integers(0, 100))
def test_any_order_of_answers_gives_the_same_groups(answers: list[str], seed: int) -> None:
    places = list(range(len(answers)))
    random.Random(seed).shuffle(places)
    shuffled = matching_answers([answers[place] for place in places])
    assert sorted(sorted(places[each] for each in group) for group in shuffled) == matching_answers(answers)


@pytest.mark.parametrize("answers", [["50%", "50", "0.5"], ["5", "x=5", "y=5"], ["$12+34$", "46", "46"]])
def test_groups_do_not_depend_on_which_answer_comes_first(answers: list[str]) -> None:
    groups = {frozenset(frozenset(g[i] for i in group) for group in matching_answers(g)) for g in permutations(answers)}
    assert len(groups) == 1


def test_no_answer_is_in_no_group() -> None:
    assert matching_answers([None, "1", None, "1.0"]) == [[1, 3]]


@pytest.mark.parametrize("text", ["Paris", "B", "2024-01-31", "3-4", "a}", r"\frac{1}{2", "1+" * 101 + "x}", "5 or so"])
def test_words_choices_dates_and_what_is_broken_are_the_same_as_themselves_alone(text: str) -> None:
    assert answers_match(text, text)
    assert not answers_match(text, "1")
    assert not answers_match(text, "")


@pytest.mark.parametrize(
    "answer",
    [
        "9^{9^{9^{9}}}",
        "(9^{9^{9}})!",
        "3^{100000000}",
        "1e" + "9" * 100,
        "x" + "^x" * 180,
        r"\sqrt" * 80 + "2",
        "(" * 150 + "1" + ")" * 150,
        "-" * 300 + "1",
        r"\sin(10^{99})",
        "+".join(f"x^{{{n}}}" for n in range(40)),
        "1" * 1_000_000,
        "(" * 500_000,
        r"\boxed{" * 140_000,
        "1," * 400_000,
        "\\" * 1_000_000,
    ],
    ids=range(15),
)
def test_what_a_policy_may_write_has_a_key_without_computer_algebra(
    answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlif.answers.keys.evaluated", None)  # a call would be an error
    assert answers_match(answer, answer)
    assert not answers_match(answer, "46")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("5 miles north", "5 miles south"),
        (r"5\text{ north}", r"5\text{ south}"),
        ("30 degrees N", "30 degrees S"),
        ("$5 profit", "$5 loss"),
        ("3 steps forward", "3 steps backward"),
        ("5 years older", "5 years younger"),
        ("5 more", "5 fewer"),
        ("12 noon", "12 midnight"),
        ("7 in the morning", "7 in the evening"),
        ("$5 an hour", "$5 a day"),
        ("5 times a day", "5 times a week"),
        ("5 apples per hour", "5 apples per day"),
        ("5 days ago", "5 days later"),
        ("5 steps left", "5 steps right"),
        ("3 fourths", "3"),
        ("1 third", "1"),
        ("2 hundredths", "2"),
        ("7 tens", "7"),
        ("x<1 and x>2", "x<1 or x>2"),
        ("5 kelvin", "5 ppm"),
    ],
)
def test_opposites_rates_and_parts_of_one_are_told_apart(one: str, other: str) -> None:
    assert not answers_match(one, other)
    assert not is_right(one, other)
    assert not is_right(other, one)


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("5 miles north", "5"),
        ("5 miles north", "5 miles"),
        ("6 feet taller", "6 feet"),
        ("$5 per hour", "5"),
        ("$5 per hour", "$5 an hour"),
        ("5 miles an hour", "5 mph"),
        ("5 more apples", "5"),
        ("5 more apples", "5 apples"),
        ("$5 less", "$5"),
        ("$5 per hour", "$5"),
        ("60 km/hr", "60 kmph"),
        ("60 km per hour", "60 km/h"),
        ("3 quarters", "3"),
        ("x<1 or x>2", r"(-\infty,1)\cup(2,\infty)"),
        ("\u20135", "-5"),
        ("5\u20448", "5/8"),
        ("\u215d", "0.625"),
        ("x\u207b\u00b9", r"\frac{1}{x}"),
        ("2\u00b9\u2070", "2^{10}"),
        ("x\u2081", "x_1"),
        ("\ufeff5", "5"),
    ],
)
def test_a_unit_direction_or_rate_may_stand_on_one_side_alone(answer: str, gold: str) -> None:
    assert is_right(answer, gold)
    assert is_right(gold, answer)
