"""The task's solutions are right, its teacher is wrong as often as stated, and its splits never meet."""

from __future__ import annotations

import math
import random
import re
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlif.answers.extract import extract_answer
from rlif.data.prompts import read_prompts
from rlif.errors import UserError
from rlif.tasks.arithmetic import (
    ALPHABET,
    ArithmeticConfig,
    Problem,
    problems,
    solution,
    split_of,
    teacher_solution,
    teacher_solutions,
    write_jsonl,
)

PROBLEM = Problem((475, 868))


def column_sums(text: str) -> list[tuple[int, int, bool]]:
    """(right sum, written sum, marked) of every line of a solution."""
    lines = [re.fullmatch(r"([\d+-]+)=(-?\d+)(\??)", line) for line in text.splitlines()[:-1]]
    assert all(lines), text
    return [(sum(map(int, re.findall(r"[+-]?\d+", m[1]))), int(m[2]), bool(m[3])) for m in lines if m]


def near(count: int, total: int, share: float) -> bool:
    # Five standard deviations of a binomial: a right implementation fails once in two million draws.
    return abs(count - total * share) <= 5 * math.sqrt(total * share * (1 - share)) + 1e-9


def test_the_documented_example_is_what_solution_writes() -> None:
    assert PROBLEM.prompt == "475+868\n"
    assert solution(PROBLEM) == "5+8=13\n7+6+1=14\n4+8+1=13\n#### 1343"


def test_a_column_below_zero_borrows_from_the_next() -> None:
    assert solution(Problem((52, -38))) == "2-8=-6\n5-3-1=1\n#### 14"


@given(
    operands=st.integers(2, 9),
    digits=st.integers(1, 5),
    subtraction=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_every_step_and_the_answer_of_a_solution_are_right(
    operands: int, digits: int, subtraction: bool, seed: int
) -> None:
    config = ArithmeticConfig(operands=operands, digits=digits, subtraction=subtraction)
    problem = next(problems(config, "train", seed))
    assert len(problem.terms) == operands
    assert all(len(str(abs(term))) == digits for term in problem.terms)
    text = solution(problem)
    assert all(right == written and not marked for right, written, marked in column_sums(text))
    assert extract_answer(text) == problem.answer == str(sum(problem.terms))
    assert int(problem.answer) >= 0


def test_everything_is_written_in_the_alphabet() -> None:
    symbols = "|".join(re.escape(symbol) for symbol in ALPHABET)
    config = ArithmeticConfig(operands=3, subtraction=True, error_rate=0.5)
    for prompt, text in islice(teacher_solutions(config, seed=0), 200):
        assert re.fullmatch(f"({symbols})*", prompt + text)


@pytest.mark.parametrize("errors", ["random", "systematic"])
def test_a_teacher_without_errors_writes_the_right_solution(errors: str) -> None:
    config = ArithmeticConfig(error_rate=0.0, errors=errors)  # type: ignore[arg-type]
    for problem in islice(problems(config, "train", 0), 100):
        assert teacher_solution(problem, config, random.Random(0)) == solution(problem)


def test_the_seed_alone_decides_the_solutions() -> None:
    config = ArithmeticConfig()
    first, again, other = (list(islice(teacher_solutions(config, seed), 50)) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_training_and_evaluation_problems_are_disjoint_whatever_the_seeds() -> None:
    config = ArithmeticConfig(digits=1)  # 81 problems: any overlap would show
    train = {problem.prompt for seed in range(3) for problem in islice(problems(config, "train", seed), 1000)}
    evaluation = {problem.prompt for seed in range(3) for problem in islice(problems(config, "eval", seed), 1000)}
    assert not train & evaluation
    assert len(train | evaluation) == 81
    assert len(evaluation) >= 5
    assert {split_of(prompt) for prompt in train} == {"train"}
    assert {prompt for prompt, _ in islice(teacher_solutions(config, 0), 1000)} <= train


def test_random_slips_come_as_often_as_stated_before_and_after_the_first() -> None:
    config = ArithmeticConfig(error_rate=0.2, doubt_rate=0.7, shaken_error_rate=0.6)
    calm = calm_wrong = shaken = shaken_wrong = wrong_total = marked_total = 0
    wrong_answers = slipped_solutions = 0
    for _, text in islice(teacher_solutions(config, 0), 4000):
        slipped = False
        for right, written, marked in column_sums(text):
            wrong = right != written
            if slipped:
                shaken, shaken_wrong = shaken + 1, shaken_wrong + wrong
            else:
                calm, calm_wrong = calm + 1, calm_wrong + wrong
            slipped |= wrong
            wrong_total, marked_total = wrong_total + wrong, marked_total + marked
            assert wrong or not marked
        if slipped:
            slipped_solutions += 1
            wrong_answers += extract_answer(text) != str(assembled(text))
    assert near(calm_wrong, calm, 0.2)
    assert near(shaken_wrong, shaken, 0.6)
    assert near(marked_total, wrong_total, 0.7)
    # A random answer is the assembled one in less than 1 of 100 draws; five standard deviations are 0.06.
    assert abs(wrong_answers / slipped_solutions - 0.6) < 0.07


def assembled(text: str) -> int:
    """The answer that the written sums of a solution add up to."""
    sums = [written for _, written, _ in column_sums(text)]
    digits = sum(written % 10 * 10**column for column, written in enumerate(sums))
    return digits + sums[-1] // 10 * 10 ** len(sums)


def carries(text: str, operands: int = 2) -> list[int]:
    """The carry written in each line; 0 where there is none."""
    terms = [re.findall(r"[+-]?\d+", line.split("=")[0]) for line in text.splitlines()[:-1]]
    return [int(term[operands]) if len(term) > operands else 0 for term in terms]


@pytest.mark.parametrize("subtraction", [False, True])
def test_a_wrong_step_is_carried_on_to_the_answer(subtraction: bool) -> None:
    config = ArithmeticConfig(error_rate=0.5, shaken_error_rate=0.0, subtraction=subtraction)
    wrong = 0
    for prompt, text in islice(teacher_solutions(config, 0), 500):
        sums = [written for _, written, _ in column_sums(text)]
        assert carries(text) == [0, *(written // 10 for written in sums[:-1])]
        assert extract_answer(text) == str(assembled(text))
        wrong += text.split("#### ")[1] != str(sum(map(int, re.findall(r"[+-]?\d+", prompt))))
    assert wrong > 100


def test_random_slips_are_drawn_anew_each_time() -> None:
    config = ArithmeticConfig(error_rate=1.0)
    rng = random.Random(0)
    first_sums = {column_sums(teacher_solution(PROBLEM, config, rng))[0][1] for _ in range(200)}
    assert 13 not in first_sums
    assert len(first_sums) > 10


def test_systematic_errors_are_the_same_each_time_and_never_felt() -> None:
    config = ArithmeticConfig(errors="systematic", error_rate=0.3)
    forgotten = received = 0
    for problem in islice(problems(config, "train", 0), 3000):
        text = teacher_solution(problem, config, random.Random(1))
        assert text == teacher_solution(problem, config, random.Random(2))
        lines = column_sums(text)
        assert all(right == written and not marked for right, written, marked in lines)
        assert extract_answer(text) == str(assembled(text))
        for (_, before, _), carry in zip(lines, carries(text)[1:], strict=False):
            if before >= 10:
                received += 1
                forgotten += carry == 0
    # The last digit of two digits' sum is even over 0 to 9, but the leading digit is never 0: half a point either way.
    assert abs(forgotten / received - 0.3) < 0.03


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("operands", 1),
        ("operands", 10),
        ("digits", 0),
        ("digits", 10**9),  # nobody computes ten to this power
        ("errors", "sometimes"),
        ("error_rate", -0.1),
        ("doubt_rate", 1.5),
        ("shaken_error_rate", math.nan),
    ],
)
def test_a_bad_value_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(UserError, match=rf"^{name}: got {re.escape(repr(value))}, expected"):
        next(problems(replace(ArithmeticConfig(), **{name: value}), "train", 0))  # type: ignore[arg-type]


def test_written_problems_are_read_back_by_the_loop(tmp_path: Path) -> None:
    config = ArithmeticConfig()
    write_jsonl(tmp_path / "eval.jsonl", config, "eval", count=20, seed=5)
    expected = [(problem.prompt, problem.answer) for problem in islice(problems(config, "eval", 5), 20)]
    assert [(prompt.content, prompt.answer) for prompt in read_prompts(tmp_path / "eval.jsonl")] == expected
