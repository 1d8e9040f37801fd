"""Word problems are right, solvable from their own text, in English, and the same for the same seed."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from fractions import Fraction
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlif.answers.extract import extract_answer
from rlif.answers.matching import is_right
from rlif.data.prompts import read_prompts
from rlif.errors import UserError
from rlif.tasks.word_problems import four_steps, one_step, three_steps, two_steps
from rlif.tasks.word_problems.english import PEOPLE, a, count, dollars
from rlif.tasks.word_problems.problems import TEMPLATES, WordProblem, WordProblemConfig, word_problems, write_jsonl

LEVELS = range(1, 9)
SPLITS = ("train", "test")
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
EQUATION = re.compile(r"(\$?\d[\d,.$/*+\- ]*) = (\$?\d[\d,]*(?:\.\d\d)?(?:/\d+)?)")


@cache
def some(level: int, split: str) -> tuple[WordProblem, ...]:
    """A few problems of each template of a level and split."""
    return tuple(word_problems(WordProblemConfig(level=level, n=40, split=split)))  # type: ignore[arg-type]


EVERYWHERE = [(level, split) for level in LEVELS for split in SPLITS]
each_level_and_split = pytest.mark.parametrize(("level", "split"), EVERYWHERE)


def value(text: str) -> Fraction:
    """What sums, products and quotients of numbers come to, in exact arithmetic."""
    plain = text.replace("$", "").replace(",", "")
    assert re.fullmatch(r"[\d./*+\- ]+", plain)
    exact: Fraction = eval(re.sub(r"[\d.]+", r"Fraction('\g<0>')", plain), {"Fraction": Fraction})
    return exact


def numbers(text: str) -> list[Fraction]:
    return [Fraction(number.rstrip(",").replace(",", "")) for number in NUMBER.findall(text)]


@each_level_and_split
def test_every_equation_of_a_solution_holds_and_the_last_result_is_the_answer(level: int, split: str) -> None:
    for problem in some(level, split):
        check_solution(problem)


@settings(max_examples=60, deadline=None)
@given(level=st.sampled_from(LEVELS), split=st.sampled_from(SPLITS), seed=st.integers(0, 2**63 - 1))
def test_every_seed_gives_right_solutions(level: int, split: str, seed: int) -> None:
    for problem in word_problems(WordProblemConfig(level=level, n=2, seed=seed, split=split)):  # type: ignore[arg-type]
        check_solution(problem)
        assert Fraction(problem.answer) not in numbers(problem.prompt)


def check_solution(problem: WordProblem) -> None:
    *steps, last = problem.solution.split("\n")
    assert len(steps) == (problem.level + 1) // 2
    for step in steps:
        ((left, right),) = EQUATION.findall(step)
        assert value(left) == value(right) > 0, step
    assert last == f"#### {problem.answer}"
    assert Fraction(problem.answer) == value(right)


@each_level_and_split
def test_each_step_is_needed(level: int, split: str) -> None:
    for problem in some(level, split):
        equations = [EQUATION.findall(step)[0] for step in problem.solution.split("\n")[:-1]]
        for place, (_, right) in enumerate(equations[:-1], start=1):
            assert any(value(right) in numbers(left) for left, _ in equations[place:]), problem.solution


@each_level_and_split
def test_the_gold_answer_is_what_the_solution_states(level: int, split: str) -> None:
    for problem in some(level, split):
        assert extract_answer(problem.solution) == problem.answer
        assert is_right(extract_answer(problem.solution) or "", problem.answer)


@each_level_and_split
def test_no_question_holds_its_answer(level: int, split: str) -> None:
    for problem in some(level, split):
        assert Fraction(problem.answer) not in numbers(problem.prompt), problem.prompt


@each_level_and_split
def test_every_quantity_is_one_that_can_be(level: int, split: str) -> None:
    for problem in some(level, split):
        text = f"{problem.prompt}\n{problem.solution}"
        for amount in re.findall(r"\$(\d[\d,]*(?:\.\d+)?)", text):
            assert re.fullmatch(r"[1-9][\d,]*|\d[\d,]*\.\d\d", amount), text
        of_other_things = re.sub(r"\$\d[\d,]*(\.\d\d)?|#### \d+\.\d\d$", "", text)
        assert "." not in "".join(re.findall(r"\d[\d.]*\d", of_other_things)), text  # nothing else has decimals
        for result in (right for _, right in EQUATION.findall(problem.solution)):
            assert value(result) > 0, text
            assert value(result).denominator == 1 or "$" in result or "raction" in problem.prompt, text


def test_small_numbers_come_without_distraction_and_large_ones_often_with_it() -> None:
    for level in LEVELS:
        distracted = [
            bool(set(numbers(problem.prompt)) - set(numbers(problem.solution)))
            for split in SPLITS
            for problem in some(level, split)
        ]
        # Half of them, but for templates that tell no such thing, and for numbers that happen to be used elsewhere.
        assert 0.2 < sum(distracted) / len(distracted) < 0.6 if level % 2 == 0 else not any(distracted)


def test_numbers_of_odd_levels_are_small() -> None:
    """The answer of a level is smaller, in the middle of all, than that of the next with as many steps."""
    for level in (1, 3, 5, 7):
        small, large = (
            sorted(Fraction(problem.answer) for split in SPLITS for problem in some(each, split))
            for each in (level, level + 1)
        )
        assert 2 * small[len(small) // 2] < large[len(large) // 2]


# ---------------------------------------------------------------- English


@each_level_and_split
def test_questions_are_sentences(level: int, split: str) -> None:
    for problem in some(level, split):
        text = problem.prompt
        assert text.endswith("?")
        assert "  " not in text
        assert text == text.strip()
        for sentence in re.split(r"(?<=[.?]) ", text):
            assert sentence[0].isupper(), text
        for line in problem.solution.split("\n")[:-1]:
            assert line[0].isupper(), line
            assert line.endswith("."), line
        assert not re.search(r"\b[Aa] [aeiou]|\b[Aa]n [^aeiou]", text), text
        assert not re.search(r"(?<![\d,.$/])\b1 (?!(slice|cup|of|is)\b)[a-z]+", text), text
        assert not re.search(r"\b(one|each) (\w+ )?(apples|boxes|shirts|pencils)\b", text), text


@each_level_and_split
def test_pronouns_go_with_the_name_where_there_is_one(level: int, split: str) -> None:
    for problem in some(level, split):
        people = {person for person in PEOPLE if re.search(rf"\b{person.name}\b", problem.prompt)}
        pronouns = set(re.findall(r"\b(he|she|his|her|him)\b", f"{problem.prompt} {problem.solution}".lower()))
        allowed = {pronoun for person in people for pronoun in (person.he, person.his, person.him)}
        assert pronouns <= allowed, problem.prompt


def test_words_have_their_forms() -> None:
    every = [noun for module in (one_step, two_steps, three_steps, four_steps) for noun in nouns_of(module)]
    assert {"peaches", "boxes", "scarves", "daisies", "trading cards"} <= {noun.many for noun in every}
    for noun in every:
        assert count(1, noun) == f"1 {noun.one}"
        assert count(1200, noun) == f"1,200 {noun.many}"
        assert not re.search(r"[^aeiou]ys$|(ch|sh|x)s$|fs$", noun.many)
    assert (a("apple"), a("peach")) == ("an apple", "a peach")
    assert [dollars(cents) for cents in (300, 350, 305, 120_000)] == ["$3", "$3.50", "$3.05", "$1,200"]
    assert not any(person.name.endswith("s") for person in PEOPLE)


def nouns_of(module: object) -> list[object]:
    from rlif.tasks.word_problems.english import Noun

    groups = [group for group in vars(module).values() if isinstance(group, tuple)]
    return [noun for group in groups for noun in group if isinstance(noun, Noun)]


# ---------------------------------------------------------------- the stream


def test_there_are_many_templates_and_each_is_in_one_split() -> None:
    listed = [template for templates in TEMPLATES.values() for template in templates]
    assert len(listed) >= 40
    assert len({template.__name__ for template in listed}) == len(listed)
    for module in (one_step, two_steps, three_steps, four_steps):
        written = {
            each
            for each in vars(module).values()
            if getattr(each, "__module__", "") == module.__name__ and isinstance(each, Callable)  # type: ignore[arg-type]
        }
        assert written == {*module.TRAIN, *module.TEST}
        assert len(module.TEST) >= 4


@each_level_and_split
def test_templates_come_equally_often(level: int, split: str) -> None:
    config = WordProblemConfig(level=level, n=100, split=split)  # type: ignore[arg-type]
    counts = Counter(problem.template for problem in word_problems(config))
    assert len(counts) == len(TEMPLATES[(level + 1) // 2, split])
    assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("level", [1, 4, 8])
def test_the_seed_alone_decides_and_more_problems_begin_as_fewer_do(level: int) -> None:
    config = WordProblemConfig(level=level, n=40, seed=5)
    problems = list(word_problems(config))
    assert list(word_problems(config)) == problems
    assert list(word_problems(replace(config, n=60)))[:40] == problems
    assert list(word_problems(replace(config, seed=6))) != problems


@each_level_and_split
def test_no_problem_comes_twice(level: int, split: str) -> None:
    config = WordProblemConfig(level=level, n=256, split=split)  # type: ignore[arg-type]
    prompts = [problem.prompt for problem in word_problems(config)]
    assert len(set(prompts)) == len(prompts)


# ---------------------------------------------------------------- as data


def test_commands_read_them_by_name() -> None:
    prompts = read_prompts("word_problems:level=3, n=5,seed=2,split=test", need_answers=True)
    expected = list(word_problems(WordProblemConfig(level=3, n=5, seed=2, split="test")))
    assert [(prompt.content, prompt.answer) for prompt in prompts] == [(each.prompt, each.answer) for each in expected]
    assert prompts[4].where == "problem 5"
    solutions = read_prompts("word_problems:level=3,n=5,seed=2,split=test", answer_column="solution")
    assert [prompt.answer for prompt in solutions] == [each.answer for each in expected]


@pytest.mark.parametrize("split", SPLITS)
def test_shots_are_solved_problems_before_each_and_none_of_them(split: str) -> None:
    prompts = read_prompts(f"word_problems:level=5,n=30,shots=3,split={split}")
    plain = read_prompts(f"word_problems:level=5,n=30,split={split}")
    (turns,) = {json.dumps(prompt.content[:-1]) for prompt in prompts}
    *pairs, last = (json.loads(turns)[start : start + 2] for start in (0, 2, 4))
    for question, solution in [*pairs, last]:
        assert (question["role"], solution["role"]) == ("user", "assistant")
        assert extract_answer(solution["content"]) is not None
    assert [prompt.content[-1] for prompt in prompts] == [{"role": "user", "content": each.content} for each in plain]
    assert not {question["content"] for question, _ in [*pairs, last]} & {each.content for each in plain}


@pytest.mark.parametrize(
    ("arguments", "split"),
    [
        ({"data": "word_problems"}, "train"),
        ({"data": "word_problems", "argument": "eval_data"}, "test"),
        ({"data": "word_problems", "split": "test"}, "test"),
        ({"data": "word_problems", "default_split": "test"}, "test"),
        ({"data": "word_problems:split=train", "argument": "eval_data"}, "train"),
    ],
)
def test_the_split_is_the_one_named_or_that_which_the_option_takes(arguments: dict[str, str], split: str) -> None:
    expected = [each.prompt for each in word_problems(WordProblemConfig(split=split))]  # type: ignore[arg-type]
    assert [prompt.content for prompt in read_prompts(**arguments)] == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("levle=2", "got 'levle=2', expected level=…, n=…, seed=…, split=…, shots=…; did you mean level=…?"),
        ("difficulty=2", "got 'difficulty=2', expected level=…, n=…, seed=…, split=…, shots=…"),
        ("level", "got 'level', expected level=…, n=…, seed=…, split=…, shots=…; did you mean level=…?"),
        ("", "got '', expected level=…, n=…, seed=…, split=…, shots=…"),
        ("level=2,", "got '', expected level=…, n=…, seed=…, split=…, shots=…"),
        ("level=9", "level: got 9, expected an integer from 1 to 8"),
        ("level=hard", "level: got 'hard', expected an integer from 1 to 8"),
        ("level=", "level: got '', expected an integer from 1 to 8"),
        ("n=0", "n: got 0, expected an integer from 1 to 100000"),
        ("n=-3", "n: got -3, expected an integer from 1 to 100000"),
        ("n=2.5", "n: got '2.5', expected an integer from 1 to 100000"),
        ("seed=-1", "seed: got -1, expected an integer of at least 0 and below 2**63"),
        ("shots=9", "shots: got 9, expected an integer from 0 to 8"),
        ("split=eval", "split: got 'eval', expected one of train, test"),
        ("n=5,n=6", "n: got it twice, expected it once"),
    ],
)
def test_a_wrong_option_is_one_line_that_names_it(spec: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        read_prompts(f"word_problems:{spec}")
    assert str(error.value) == f"data: word_problems: {message}"


def test_a_split_beside_one_in_the_name_is_refused() -> None:
    with pytest.raises(UserError, match=r"^eval_split: got 'test' beside 'word_problems:split=train', which names its"):
        read_prompts("word_problems:split=train", argument="eval_data", split="test")
    with pytest.raises(UserError, match=r"^data: word_problems: split: got 'train\[:100\]', expected one of train, t"):
        read_prompts("word_problems", split="train[:100]")


def test_a_file_of_that_name_is_read_as_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("word_problems").write_text('{"prompt": "mine", "answer": 1}\n')
    assert [prompt.content for prompt in read_prompts("word_problems")] == ["mine"]


def test_written_problems_are_read_back(tmp_path: Path) -> None:
    config = WordProblemConfig(level=2, n=7)
    write_jsonl(tmp_path / "problems.jsonl", config)
    rows = [json.loads(line) for line in (tmp_path / "problems.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows == [asdict(problem) for problem in word_problems(config)]
    assert read_prompts(tmp_path / "problems.jsonl") == read_prompts("word_problems:level=2,n=7")
