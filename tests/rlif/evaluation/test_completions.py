"""A file of completions is read as it was written, and what is wrong with one is said with its line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from rlif.errors import UserError
from rlif.evaluation.completions import completion_row, read_completions
from rlif.evaluation.measure import evaluate_completions
from rlif.evaluation.report import print_tables
from rlif.files.jsonl import write_rows

WriteJsonl = Callable[..., Path]


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "completions.jsonl"
    texts = [["so #### 4", "none", "\\boxed{5}"], ["#### x\u2028", "#### 4.0", "#### 4"]]
    scores = [{"sureness": [0.1, 1e-7, 123456.79]}, {"sureness": [1.0, 2.0, -3.0]}]
    rows = [
        completion_row("p\n1", "4", texts[0], scores[0], tokens=[3, 1, 2]),
        completion_row("p2", None, texts[1], scores[1], tokens=[3, 1, 2]),
    ]
    write_rows(path, rows)
    completions = read_completions(path)
    assert completions.prompts == ["p\n1", "p2"]
    assert completions.golds == ["4", None]
    assert completions.answers == [["4", None, "5"], ["x", "4.0", "4"]]
    assert completions.scores["sureness"].tolist() == [scores[0]["sureness"], scores[1]["sureness"]]
    assert completions.clusters.tolist() == [[0, -1, 1], [0, 1, 1]]
    assert completions.agreement.tolist() == [[1 / 3, 0, 1 / 3], [1 / 3, 2 / 3, 2 / 3]]
    assert completions.labelled().prompts == ["p\n1"]
    assert completions.labelled().correct().tolist() == [[True, False, False]]


def test_a_list_of_gold_answers_is_read_again_and_any_of_it_is_right(tmp_path: Path) -> None:
    path = tmp_path / "completions.jsonl"
    write_rows(path, [completion_row("p", ("Paris", "1/2"), ["#### 0.5", "#### paris", "#### 2"], {})])
    completions = read_completions(path)
    assert completions.golds == [("Paris", "1/2")]
    assert completions.correct().tolist() == [[True, True, False]]


def test_a_file_from_elsewhere_may_have_answers_and_no_scores(write_jsonl: WriteJsonl) -> None:
    path = write_jsonl({"prompt": "a", "answer": "so #### 7", "answers": [7, "7.0", None, ""]})
    completions = read_completions(path)
    assert completions.answers == [["7", "7.0", None, None]]
    assert completions.correct().tolist() == [[True, True, False, False]]
    assert completions.scores == {}


def tagged(answer: int, confidence: object) -> str:
    return f"</think><answer>{answer}</answer><analysis>?</analysis><confidence>{confidence}</confidence>"


def test_confidence_in_words_is_a_score_and_weighs_votes(write_jsonl: WriteJsonl) -> None:
    texts = [tagged(7, 0.2), tagged(7, "20%"), tagged(8, 90), "<answer>7</answer>"]
    completions = read_completions(write_jsonl({"prompt": "a", "answer": "8", "completions": texts}))
    assert completions.answers == [["7", "7", "8", "7"]]
    assert completions.scores["verbalized"].tolist() == [[0.2, 0.2, 0.9, 0.0]]
    evaluation = evaluate_completions(completions)
    assert evaluation.label_free["confidence_stated"].value == 0.75
    assert evaluation.selection["majority@4"].value == 0
    assert evaluation.selection["weighted-majority/verbalized"].value == 1
    assert evaluation.scores["verbalized"].as_is is not None
    assert evaluation.scores["verbalized"].as_is[1] == pytest.approx((0.04 + 0.04 + 0.01 + 0) / 4)
    assert evaluation.same_confidence is None


def test_one_confidence_for_everything_is_told(write_jsonl: WriteJsonl) -> None:
    completions = read_completions(write_jsonl({"prompt": "a", "answer": "8", "completions": [tagged(7, 0.5)] * 4}))
    evaluation = evaluate_completions(completions)
    assert evaluation.same_confidence == (0.5, 1.0)
    console = Console(record=True, width=100)
    print_tables(evaluation, console)
    assert "100% of the confidences that completions state are 0.5: they tell nothing apart" in console.export_text()


GOOD = {"prompt": "a", "answer": "1", "completions": ["#### 1", "#### 2"], "scores": {"s": [0.5, 0.25]}}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"completions": ["x"]}, "got 1 completions, expected 2 as in line 1"),
        ({"completions": "text"}, 'got `completions` "text", expected a list of `completions`'),
        ({"completions": []}, r"got `completions` \[\], expected a list"),
        ({"completions": None}, "got `answers` null, expected a list"),
        ({"completions": ["a", 3]}, "got 3 for `completions`, expected text"),
        ({"prompt": None}, "got null for `prompt`, expected text"),
        ({"answer": {"a": "b"}}, r"got \{\"a\": \"b\"\} for `answer`, expected text, a number"),
        ({"answer": ["1", "\ud800"]}, "got `answer` with half a surrogate pair"),
        ({"scores": [1, 2]}, r"got `scores` .*, expected an object of lists of numbers"),
        ({"scores": {"s": 0.5}}, "got 0.5 for the score `s`, expected a list of numbers"),
        ({"scores": {"s": [0.5]}}, "got 1 scores `s`, expected 2, one a completion"),
        ({"scores": {"s": [0.5, None]}}, "got null among the scores `s`, expected finite numbers"),
        ({"scores": {"s": [0.5, float("nan")]}}, "NaN is not JSON"),
        ({"scores": {"s": [0.5, 10**400]}}, "among the scores `s`, expected finite numbers"),
        ({"scores": {"agreement": [0.5, 0.5]}}, "got a score `agreement`, expected another name"),
        ({"prompt": "\ud83d"}, "got `prompt` with half a surrogate pair"),
        ({"completions": ["#### 1", "#### \ud83d"]}, "got `completions` with half a surrogate pair"),
        ({"scores": {"t": [0.5, 0.5]}}, "got the scores t, expected s as in line 1"),
        ({"scores": None}, "got the scores none, expected s as in line 1"),
    ],
)
def test_a_malformed_line_is_refused_with_its_number(
    write_jsonl: WriteJsonl, change: dict[str, object], reason: str
) -> None:
    path = write_jsonl(GOOD, GOOD | change)
    with pytest.raises(UserError, match=f"completions: .*line 2.*{reason}"):
        read_completions(path)


def test_an_empty_file_and_none_at_all_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(UserError, match=r"completions: .*empty.jsonl is empty, expected at least one line"):
        read_completions(tmp_path / "empty.jsonl")
    for path in (tmp_path / "none.jsonl", Path("me/none")):  # which is no id of the Hugging Face hub either
        with pytest.raises(UserError, match=r"completions: got .*which is not a file; expected .* or CSV$"):
            read_completions(path)


def test_nan_in_a_table_is_no_answer(tmp_path: Path) -> None:
    nan = float("nan")
    table = pa.table(
        {"prompt": ["a", "b"], "answer": pa.array([nan, 4.0]), "answers": [[nan, nan, 4.0], [4.0, nan, 5.0]]}
    )
    pq.write_table(table, tmp_path / "table.parquet")
    completions = read_completions(tmp_path / "table.parquet")
    assert completions.golds == [None, "4.0"]
    assert completions.answers == [[None, None, "4.0"], ["4.0", None, "5.0"]]


def test_prose_states_answers_only_where_it_is_asked_and_where_it_was_not_cut_off(write_jsonl: WriteJsonl) -> None:
    texts = ["So 2 + 2 = 4.", "So 2 + 2 = 4.", "#### 5", "So it is 4"]
    rows = [
        {"prompt": "a", "completions": texts, "finished": [True, False, False, True]},
        {"prompt": "b", "completions": texts},
    ]
    path = write_jsonl(*rows)
    assert read_completions(path).answers == [[None, None, "5", None]] * 2
    lenient = read_completions(path, answer_style="lenient")
    assert lenient.answers == [["4", None, "5", "4"], ["4", "4", "5", None]]
    assert lenient.tiers == {"equation": 3, "marker": 2, "number": 1}
