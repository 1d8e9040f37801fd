"""Prompts come out of every kind of table alike, and what is wrong with one is said with its place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict

from rlif.data.prompts import Prompt, read_prompts
from rlif.errors import UserError

ROWS = [
    {"prompt": " 1+1=\n", "answer": "2"},
    {"prompt": 'Grüße, "you"', "answer": "so:\n#### 72"},
    {"prompt": "7", "answer": None},
]
EXPECTED = [Prompt(" 1+1=\n", "2"), Prompt('Grüße, "you"', "72"), Prompt("7", None)]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def write_parquet(path: Path, rows: list[dict[str, object]] = ROWS) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path)


def write_csv(
    path: Path, text: str = '\ufeffprompt,answer\r\n" 1+1=\n",2\r\n"Grüße, ""you""","so:\n#### 72"\r\n7,\r\n'
) -> None:
    path.write_bytes(text.encode())


WRITERS: dict[str, Callable[[Path], object]] = {
    "data.parquet": write_parquet,
    "data.csv": write_csv,
    "data.tsv": lambda path: write_csv(path, 'prompt\tanswer\n" 1+1=\n"\t2\n"Grüße, ""you"""\t#### 72\n7\t\n'),
    "data.json": lambda path: path.write_text(json.dumps(ROWS, indent=2)),
    "lines.json": lambda path: path.write_text("\n".join(json.dumps(row) for row in ROWS)),
    "data.jsonl": lambda path: path.write_text("\n".join(json.dumps(row) for row in ROWS)),
    "saved": lambda path: Dataset.from_list(ROWS).save_to_disk(path),
    "parquets": lambda path: (path.mkdir(), write_parquet(path / "part-0.parquet")),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_table_gives_the_same_prompts(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    assert read_prompts(str(tmp_path / name)) == EXPECTED


def test_columns_may_have_other_names_and_conversations(tmp_path: Path) -> None:
    conversation = [{"role": "user", "content": "1+1"}]
    rows = [{"question": "1+1", "messages": conversation, "solution": r"so \boxed{2}", "answer": 3}]
    write_parquet(tmp_path / "data.parquet", rows)
    path = tmp_path / "data.parquet"
    assert read_prompts(path, prompt_column="question", answer_column="solution") == [Prompt("1+1", "2")]
    assert read_prompts(path, prompt_column="messages") == [Prompt(conversation, "3")]


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.5, "0.5"), (1e-05, "0.00001"), (72, "72"), (float("nan"), None), (Decimal("1.10"), "1.10"), ("1e-5", "1e-5")],
)
def test_a_number_in_a_table_is_written_out(value: object, expected: str | None, tmp_path: Path) -> None:
    write_parquet(tmp_path / "data.parquet", [{"prompt": "x", "answer": value}])
    assert read_prompts(tmp_path / "data.parquet")[0].answer == expected


def test_a_cell_of_a_csv_file_is_read_as_it_is_written(tmp_path: Path) -> None:
    write_csv(tmp_path / "data.csv", "prompt,answer\nNA,007\nnull,1.50\n")
    assert read_prompts(tmp_path / "data.csv") == [Prompt("NA", "007"), Prompt("null", "1.50")]


@pytest.fixture
def split_directory(tmp_path: Path) -> Path:
    directory = tmp_path / "splits"
    directory.mkdir()
    for split in ("train", "test"):
        write_parquet(directory / f"{split}.parquet", [{"prompt": f"{split} {n}", "answer": n} for n in range(5)])
    return directory


def test_training_takes_the_split_train_and_evaluation_test_unless_told_otherwise(
    split_directory: Path, tmp_path: Path
) -> None:
    def first(**settings: str) -> tuple[object, int]:
        prompts = read_prompts(split_directory, **settings)  # type: ignore[arg-type]
        return prompts[0].content, len(prompts)

    assert first() == ("train 0", 5)
    assert first(argument="eval_data") == ("test 0", 5)
    assert first(split="test") == ("test 0", 5)
    assert first(split="train[1:3]") == ("train 1", 2)
    DatasetDict({split: Dataset.from_list(ROWS) for split in ("dev", "test")}).save_to_disk(tmp_path / "saved")
    assert read_prompts(tmp_path / "saved", split="dev") == EXPECTED
    assert read_prompts(tmp_path / "saved", argument="eval_data") == EXPECTED
    with pytest.raises(UserError, match=r"^split: got None, expected one of .*saved's splits: dev, test"):
        read_prompts(tmp_path / "saved")
    with pytest.raises(UserError, match=r"^eval_split: got 'train', expected one of .*: dev, test"):
        read_prompts(tmp_path / "saved", argument="eval_data", split="train")
    with pytest.raises(UserError, match=r"^data: cannot read the directory .* Unknown split \"dev\".*train.*test"):
        read_prompts(split_directory, split="dev")


def test_a_single_file_has_no_splits(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data.parquet")
    with pytest.raises(UserError, match=r"^split: got 'train', but .* is a single file"):
        read_prompts(tmp_path / "data.parquet", split="train")
    with pytest.raises(UserError, match=r"^eval_split: got 'train', but .* is a single file"):
        read_prompts(tmp_path / "data.parquet", argument="eval_data", split="train")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data.parquet", b"PAR1 is how it begins", r"cannot read .* as Parquet: ArrowInvalid: Parquet magic bytes"),
        ("data.parquet", b"", r"cannot read .* as Parquet: "),
        ("data.json", b'[{"prompt": "a"}, {"prompt"', r"expected a JSON array of objects \(.*line 1 column 28"),
        ("data.json", b'[{"prompt": "a"}, 3]', r"row 2: got \"3\", expected a JSON object"),
        ("data.json", b"[]", r"is empty, expected at least one row"),
        ("data.json", b'{\n"prompt": "a"\n}', r"line 1: got \{, expected a JSON object"),
        ("data.csv", b'prompt,answer\na,1\n"b,2\n', r"line 3: unexpected end of data"),
        ("data.csv", b"prompt,answer\na,1\n\nb,1,000\n", r"line 4: got 3 fields, expected 2 as in the first line"),
        ("data.csv", b"prompt,answer\n,1\n", r"line 2: got `prompt` \"\", expected a non-empty string"),
        ("data.csv", b"prompt,answer\n", r"is empty"),
        ("data.csv", b"", r"is empty"),
        ("data.csv", b"\x80", r"is not UTF-8 text"),
    ],
)
def test_a_broken_file_is_one_error_with_the_place(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read_prompts(tmp_path / name)
    assert str(error.value).startswith("data: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["data.parquet", "data.csv", "data.jsonl"])
def test_an_unknown_column_is_an_error_that_lists_the_columns(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    with pytest.raises(
        UserError, match=r" got no `question` in \{.*\}; the columns are prompt, answer \(prompt_column"
    ):
        read_prompts(tmp_path / name, prompt_column="question")
    with pytest.raises(UserError, match=r"^answer_column: got 'solution', expected a column of .*: prompt"):
        read_prompts(tmp_path / name, answer_column="solution")


def test_a_prompt_in_a_table_is_named_by_its_row(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data.parquet", [{"prompt": "a"}, {"prompt": None}])
    with pytest.raises(UserError, match=r"data\.parquet, row 2: got `prompt` null, expected a non-empty string"):
        read_prompts(tmp_path / "data.parquet")
    write_parquet(tmp_path / "data.parquet", [{"prompt": "a", "answer": "1"}, {"prompt": "b", "answer": None}])
    with pytest.raises(UserError, match=r"row 2: no `answer`, which a reward needs in every row"):
        read_prompts(tmp_path / "data.parquet", need_answers=True)


def test_a_pipe_is_refused_because_it_cannot_be_read_again(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=r"which is a pipe or a device, not a file that can be read again"):
        read_prompts(tmp_path / "pipe")


def test_a_hub_id_out_of_reach_is_one_error_at_once(tmp_path: Path) -> None:
    # A name that resolves nowhere (RFC 6761) stands for a machine without network.
    environment = os.environ | {"HF_ENDPOINT": "http://hub.invalid", "HF_HOME": str(tmp_path)}
    code = (
        "from rlif.data.prompts import read_prompts; from rlif.errors import UserError\n"
        "try: read_prompts('openai/gsm8k', data_config='main')\n"
        "except UserError as error: print(error)"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(
        "data: got 'openai/gsm8k', which is not a file here, and the Hugging Face hub cannot be reached: "
    )
    assert "HF_HUB_OFFLINE=1" in done.stdout
    assert done.stdout.count("\n") == 1
    assert time.monotonic() - started < 30  # a few seconds of imports; without care, retries take half a minute more
    environment["HF_HUB_OFFLINE"] = "1"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("data: cannot load the hub dataset 'openai/gsm8k': ")


@pytest.mark.parametrize(
    "name", ["", "missing.parquet", "./missing", "/nowhere/at/all", "~/missing", "a/b/c", "x" * 300 + "/"]
)
def test_what_can_be_no_hub_id_is_a_missing_file(name: str) -> None:
    with pytest.raises(UserError, match=r"^data: got .*, which is not a file; expected JSONL, JSON, Parquet or CSV"):
        read_prompts(name)
