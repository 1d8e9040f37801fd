"""The tables stay readable."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from rlif.evaluation.completions import Completions, read_completions
from rlif.evaluation.measure import evaluate_completions
from rlif.evaluation.report import print_tables, scores_table, write_evaluation
from rlif.files.jsonl import write_rows
from rlif.scoring.confidence import CONFIDENCE_SCORES


def test_a_long_name_of_a_score_leaves_the_numbers_readable(capsys: pytest.CaptureFixture[str]) -> None:
    completions = Completions(["a"], ["1"], [["1", "2"]], {"name " * 16: np.array([[0.9, 0.4]])})
    print_tables(evaluate_completions(completions), Console(width=80))
    assert "0.500" in capsys.readouterr().out.splitlines()[-1]


def test_the_name_of_every_score_has_a_line_of_its_own_in_eighty_columns() -> None:
    scores = {name: np.array([[0.9, 0.4]]) for name in CONFIDENCE_SCORES}
    console = Console(width=80, record=True)
    console.print(scores_table(evaluate_completions(Completions(["a"], ["1"], [["1", "2"]], scores))))
    printed = console.export_text()
    assert [name for name in scores if f"\n{name} " not in printed] == []


def test_where_no_completion_states_an_answer_accuracy_is_not_zero_but_not_measured(tmp_path: Path) -> None:
    row = {"prompt": "p", "answer": "42", "completions": ["It is [42] now", "so 42"], "finished": [True, False]}
    write_rows(tmp_path / "completions.jsonl", [row] * 4)
    completions = read_completions(tmp_path / "completions.jsonl")
    evaluation = evaluate_completions(completions)
    assert (evaluation.selection, evaluation.scores, evaluation.labelled) == ({}, {}, 4)
    console = Console(width=300, record=True)
    print_tables(evaluation, console)
    printed = console.export_text()
    assert "No completion states an answer: accuracy is not 0%, it is not measured" in printed
    assert "try answer_style lenient, which reads prose too; a system_prompt" in printed
    assert "a longer max_completion_length (50% were cut off)." in printed
    assert printed.count("  without: It is [42] now") == 3
    assert "right" not in printed
    write_evaluation(evaluation, completions, tmp_path)
    written = json.loads((tmp_path / "eval.json").read_text())
    assert (written["selection"], written["scores"], len(written["unanswered"])) == ({}, {}, 3)
    lenient = evaluate_completions(read_completions(tmp_path / "completions.jsonl", answer_style="lenient"))
    assert lenient.selection["accuracy@1"].value == 1.0
    console = Console(width=300, record=True)
    print_tables(lenient, console)
    assert "states an answer" not in console.export_text()


def test_where_few_completions_state_an_answer_the_accuracy_is_explained() -> None:
    completions = Completions(["a"], ["1"], [["1", None, None]], {})
    console = Console(width=300, record=True)
    print_tables(evaluate_completions(completions), console)
    assert "Only 33.3% of the completions state an answer: the others count as wrong." in console.export_text()


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["#### 1", "so"], "No completion states its confidence, for which the prompts name <confidence>: there is no"),
        (["<confidence>0.5</confidence>", *["so"] * 3], "Only 25.0% of the completions state their confidence: the"),
        (["<confidence>0.5</confidence>", "so"], None),
    ],
)
def test_where_few_completions_state_the_confidence_that_is_asked_for_that_is_said(
    texts: list[str], said: str | None, tmp_path: Path
) -> None:
    row = {"prompt": "End with <confidence>.", "answer": "1", "completions": texts, "finished": [False] * len(texts)}
    for prompt, expected in ((row["prompt"], said), ("1+0=", None)):  # of a prompt that asks for none nothing is said
        write_rows(tmp_path / "completions.jsonl", [row | {"prompt": prompt}])
        console = Console(width=400, record=True)
        print_tables(evaluate_completions(read_completions(tmp_path / "completions.jsonl")), console)
        printed = console.export_text()
        if expected is None:
            assert "confidence>:" not in printed
            assert "state their confidence:" not in printed
        else:
            assert expected in printed
            assert "a system_prompt that asks for … </think><answer>" in printed
            assert "a longer max_completion_length (100% were cut off)." in printed
