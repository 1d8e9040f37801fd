"""Prompts come out as they stand in the file; what is wrong with the file is said with its line."""

import json
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlif.data.prompts import Prompt, read_prompts, shuffled_epochs
from rlif.errors import UserError


def write(tmp_path: Path, content: str) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text(content, encoding="utf-8")
    return path


def test_prompts_are_verbatim_and_answers_optional(tmp_path: Path) -> None:
    rows = [
        {"prompt": " 1+1=\n", "answer": "2"},
        {"prompt": "Grüße\u2028?", "level": 3},
        {"prompt": "1/2", "answer": 0.5},
        {"prompt": "7", "answer": 7},
        {"prompt": "none", "answer": None},
    ]
    path = write(tmp_path, "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n")
    assert read_prompts(path) == [
        Prompt(" 1+1=\n", "2"),
        Prompt("Grüße\u2028?", None),
        Prompt("1/2", "0.5"),
        Prompt("7", "7"),
        Prompt("none", None),
    ]


def test_a_byte_order_mark_and_windows_line_ends_are_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\r\n{"prompt": "b"}\r\n')
    assert [prompt.content for prompt in read_prompts(path)] == ["a", "b"]


def test_a_gold_solution_is_reduced_to_its_final_answer(tmp_path: Path) -> None:
    path = write(tmp_path, json.dumps({"prompt": "48/2+48=", "answer": "48/2=24\n24+48=72\n#### 72"}))
    assert read_prompts(path)[0].answer == "72"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("not json", "JSON object"),
        ('{"prompt": "cut off', "JSON object"),
        ("[" * 100_000, "JSON object"),
        ('["prompt"]', "JSON object"),
        ('"prompt"', "JSON object"),
        ("3", "JSON object"),
        ('{"question": "1+1"}', "no `prompt`"),
        ('{"prompt": ""}', "non-empty string"),
        ('{"prompt": null}', "non-empty string"),
        ('{"prompt": ["1+1"]}', "non-empty string"),
        ('{"prompt": "1+1", "answer": {"value": "2"}}', "`answer`"),
        ('{"prompt": "1+1", "answer": [["2"], ["3"]]}', "`answer`"),
        ('{"prompt": "1+1", "answer": ["2", "\\ud800"]}', "`answer`"),
    ],
)
def test_a_bad_line_is_named_by_its_number_in_the_file(tmp_path: Path, line: str, reason: str) -> None:
    path = write(tmp_path, f'{{"prompt": "fine"}}\n\n{line}\n')
    with pytest.raises(UserError) as error:
        read_prompts(path)
    message = str(error.value)
    assert f"{path}, line 3:" in message
    assert reason in message
    assert "\n" not in message
    assert len(message) < 400  # a long line is not repeated in full


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_file_is_an_error(tmp_path: Path, content: str) -> None:
    with pytest.raises(UserError, match=r"eval_data: .* is empty"):
        read_prompts(write(tmp_path, content), argument="eval_data")


def test_a_missing_file_an_empty_directory_and_binary_data_are_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^data: got .*not a file"):
        read_prompts(tmp_path / "missing.jsonl")
    with pytest.raises(UserError, match=r"^data: cannot read the directory .*doesn't contain any data files"):
        read_prompts(tmp_path)
    (tmp_path / "binary").write_bytes(b"\x80\x81")
    with pytest.raises(UserError, match="not UTF-8"):
        read_prompts(tmp_path / "binary")


@pytest.mark.parametrize(
    "row", [{"prompt": "2+2="}, {"prompt": "2+2=", "answer": None}, {"prompt": "2+2=", "answer": ""}]
)
def test_a_missing_answer_is_an_error_only_where_answers_are_needed(tmp_path: Path, row: dict[str, object]) -> None:
    path = write(tmp_path, json.dumps({"prompt": "1+1=", "answer": "2"}) + "\n" + json.dumps(row))
    assert read_prompts(path)[1].answer is None
    with pytest.raises(UserError, match=r"line 2: no `answer`, which a reward needs"):
        read_prompts(path, need_answers=True)


def test_a_list_of_gold_answers_has_those_that_are_right_and_true_is_yes_too(tmp_path: Path) -> None:
    answers = [["2", 2.50, "so #### 3"], ["4", 4], [], True]
    lines = [json.dumps({"prompt": "x", "answer": answer}) for answer in answers]
    expected = [("2", "2.5", "3"), "4", None, ("true", "yes")]
    assert [prompt.answer for prompt in read_prompts(write(tmp_path, "\n".join(lines)))] == expected


@given(count=st.integers(1, 20), epochs=st.integers(1, 4), seed=st.integers(0, 2**32))
def test_every_epoch_holds_every_item_once_and_the_seed_fixes_the_order(count: int, epochs: int, seed: int) -> None:
    items = list(range(count))
    order = list(islice(shuffled_epochs(items, seed), count * epochs))
    for start in range(0, len(order), count):
        assert sorted(order[start : start + count]) == items
    assert order == list(islice(shuffled_epochs(items, seed), count * epochs))


def test_epochs_and_seeds_differ_in_their_order() -> None:
    items = list(range(50))
    order = list(islice(shuffled_epochs(items, 0), 100))
    assert order[:50] != order[50:]
    assert order[:50] != list(islice(shuffled_epochs(items, 1), 50))


@pytest.mark.parametrize(("written", "gold"), [("0.00001", "0.00001"), ("1e16", "10000000000000000"), ("7", "7")])
def test_a_number_as_gold_answer_is_read_as_it_stands(written: str, gold: str, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(f'{{"prompt": "x", "answer": {written}}}\n')
    assert read_prompts(path)[0].answer == gold


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"prompt": "a\\ud800b"}', "half a surrogate pair"),
        ('{"prompt": "x", "answer": "a\\ud800b"}', "half a surrogate pair"),
        ('{"prompt": "x", "answer": NaN}', "NaN is not JSON"),
        ('{"prompt": "x", "answer": "  "}', "no `answer`"),
        ('{"prompt": "x", "answer": "#### "}', "no `answer`"),
        (json.dumps({"prompt": "x"})[:-1] + ', "answer": ' + "9" * 5000 + "}", None),
    ],
)
def test_odd_lines_are_one_error_that_names_the_line(row: str, message: str | None, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(row + "\n")
    if message is None:
        assert len(read_prompts(path, need_answers=True)[0].answer) == 5000
    else:
        with pytest.raises(UserError, match=f"line 1.*{message}"):
            read_prompts(path, need_answers=True)
