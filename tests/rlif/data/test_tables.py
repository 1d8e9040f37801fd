"""Prompts come out of every kind of table alike, and what is wrong with one is said with its place."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict
from huggingface_hub import HfApi

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


@pytest.mark.parametrize("break_", ["\u2028", "\u2029", "\x85", "\f", "\v", "\x1c", "\r\n", "\n"])
def test_a_cell_of_a_csv_file_may_hold_whatever_breaks_lines_elsewhere(break_: str, tmp_path: Path) -> None:
    write_csv(tmp_path / "data.csv", f'prompt,answer\n"a{break_}b",1\n"c",2\n')
    assert read_prompts(tmp_path / "data.csv") == [Prompt(f"a{break_}b", "1"), Prompt("c", "2")]
    plain = break_ if break_.strip("\r\n") else " "
    write_csv(tmp_path / "data.tsv", f"prompt\tanswer\na{plain}b\t1\nc\t2\n")
    assert read_prompts(tmp_path / "data.tsv") == [Prompt(f"a{plain}b", "1"), Prompt("c", "2")]


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()])
def test_a_narrow_float_has_the_digits_of_its_own_width(kind: pa.DataType, tmp_path: Path) -> None:
    answers = pa.array(np.array([0.1, 2.5, np.nan, 1e-5], dtype=kind.to_pandas_dtype()), kind)
    pq.write_table(pa.table({"prompt": ["a", "b", "c", "d"], "answer": answers}), tmp_path / "data.parquet")
    read = [prompt.answer for prompt in read_prompts(tmp_path / "data.parquet")]
    assert read == ["0.1", "2.5", None, "0.00001"]
    several = pa.array([np.array([0.1], kind.to_pandas_dtype()), None, answers.to_numpy()[:2], []], pa.list_(kind))
    pq.write_table(pa.table({"prompt": ["a", "b", "c", "d"], "answer": several}), tmp_path / "lists.parquet")
    assert [prompt.answer for prompt in read_prompts(tmp_path / "lists.parquet")] == ["0.1", None, ("0.1", "2.5"), None]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_a_directory_reads_as_its_files(suffix: str, tmp_path: Path) -> None:
    answers = ["007", "NA", "2024-01-01", "1e-5", "0.10", "123456789012345678901234567890", "true", "#### 7"]
    rows = [{"prompt": f"p{number}", "answer": answer} for number, answer in enumerate(answers)]
    directory = tmp_path / "directory"
    directory.mkdir()
    for number, part in enumerate((rows[:3], rows[3:])):
        path = directory / f"part-{number}.{suffix}"
        if suffix == "parquet":
            write_parquet(path, list(part))
        elif suffix in ("csv", "tsv"):
            comma = "," if suffix == "csv" else "\t"
            lines = [("prompt", "answer"), *(each.values() for each in part)]
            write_csv(path, "".join(comma.join(line) + "\n" for line in lines))
        else:
            path.write_text(json.dumps(part) if suffix == "json" else "\n".join(map(json.dumps, part)))
    whole = [prompt for path in sorted(directory.iterdir()) for prompt in read_prompts(path)]
    assert read_prompts(directory) == whole
    assert read_prompts(directory, split="train[2:5]") == whole[2:5]
    assert read_prompts(directory, split="train[-2:]") == whole[-2:]
    assert whole[-1].answer == "7"


def test_numbers_in_lines_of_a_directory_are_as_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"prompt": "a", "answer": 1.50}\n{"prompt": "b", "answer": 0.00001}\n')
    (tmp_path / "test.jsonl").write_text('{"prompt": "c", "answer": 12345678901234567890123}\n{"prompt": ""}\n')
    assert [prompt.answer for prompt in read_prompts(tmp_path)] == ["1.50", "0.00001"]
    assert read_prompts(tmp_path, split="test[:1]") == [Prompt("c", "12345678901234567890123")]
    with pytest.raises(
        UserError, match=r"^eval_data: .*, test\.jsonl, line 2: got `prompt` \"\", expected a non-empty"
    ):
        read_prompts(tmp_path, argument="eval_data")


def test_files_of_other_kinds_in_a_directory_do_not_change_how_it_is_read(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"prompt": name, "answer": "007"}))
    for name in ("LICENSE", "notes.txt", "figure.png", ".hidden.jsonl", "dataset_infos.json"):
        (tmp_path / name).write_text("no data")
    assert read_prompts(tmp_path) == [Prompt("a", "007"), Prompt("b", "007")]


def test_a_compressed_file_in_a_directory_is_read_by_the_library_that_can(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.write(json.dumps({"prompt": "a", "answer": "b"}))
    assert read_prompts(tmp_path) == [Prompt("a", "b")]


def test_a_directory_that_says_itself_what_is_in_it_is_read_as_it_says(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nconfigs:\n- config_name: a\n  data_files: b.jsonl\n---\n")
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"prompt": name}))
    assert read_prompts(tmp_path) == [Prompt("b", None)]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("1e99999999999", "1E+99999999999"),
        ("-1e-99999999999", "-1E-99999999999"),
        ("1e300", "1" + 300 * "0"),
        ("0e99999", "0E+99999"),
    ],
)
def test_a_number_that_has_too_many_digits_to_write_out_keeps_its_exponent(
    text: str, answer: str, tmp_path: Path
) -> None:
    (tmp_path / "data.jsonl").write_text(f'{{"prompt": "x", "answer": {text}}}\n')
    assert read_prompts(tmp_path / "data.jsonl") == [Prompt("x", answer)]


def test_a_number_beyond_every_number_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text('{"prompt": "x", "answer": 1e99999999999999999999}\n')
    with pytest.raises(UserError, match=r"^data: .*, line 1: .*is no number that can be computed with"):
        read_prompts(tmp_path / "data.jsonl")
    write_parquet(tmp_path / "data.parquet", [{"prompt": "x", "answer": float("inf")}])
    with pytest.raises(UserError, match=r"row 1: got `answer` inf, expected a string or a finite number$"):
        read_prompts(tmp_path / "data.parquet")


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


def test_a_hub_id_out_of_reach_is_one_error(tmp_path: Path) -> None:
    # A name that resolves nowhere (RFC 6761) stands for a machine without network.
    environment = os.environ | {"HF_ENDPOINT": "http://hub.invalid", "HF_HOME": str(tmp_path)}
    code = (
        "from rlif.data.prompts import read_prompts; from rlif.errors import UserError\n"
        "try: read_prompts('openai/gsm8k', data_config='main')\n"
        "except UserError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(
        "data: got 'openai/gsm8k', which is not a file here, and the Hugging Face hub cannot be reached: "
    )
    assert "HF_HUB_OFFLINE=1" in done.stdout
    assert done.stdout.count("\n") == 1
    environment["HF_HUB_OFFLINE"] = "1"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("data: cannot load the hub dataset 'openai/gsm8k': ")


def test_a_hub_out_of_reach_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def ask(self: HfApi, name: str, *, timeout: float) -> None:
        asked.append(name)
        raise ConnectionError("no route to host")

    def never(*_: object, **__: object) -> None:
        raise AssertionError("loading tries again and again")

    monkeypatch.setattr(HfApi, "dataset_info", ask)
    monkeypatch.setattr("datasets.load_dataset", never)
    monkeypatch.setattr("datasets.get_dataset_split_names", never)
    with pytest.raises(UserError, match=r"the Hugging Face hub cannot be reached: ConnectionError: no route to host"):
        read_prompts("openai/gsm8k", data_config="main")
    assert asked == ["openai/gsm8k"]


@pytest.mark.parametrize(
    "name", ["", "missing.parquet", "./missing", "/nowhere/at/all", "~/missing", "a/b/c", "x" * 300 + "/"]
)
def test_what_can_be_no_hub_id_is_a_missing_file(name: str) -> None:
    with pytest.raises(UserError, match=r"^data: got .*, which is not a file; expected JSONL, JSON, Parquet or CSV"):
        read_prompts(name)


def test_a_text_that_is_not_utf8_is_one_error(tmp_path: Path) -> None:
    offsets, letters = (pa.py_buffer(part) for part in (np.array([0, 1, 2], dtype=np.int32).tobytes(), b"1\xb1"))
    texts = pa.StringArray.from_buffers(2, offsets, letters)
    pq.write_table(pa.table({"prompt": texts}), tmp_path / "data.parquet")
    with pytest.raises(UserError, match=r"^data: .*data\.parquet: a text in it is not UTF-8 \(invalid start byte\)"):
        read_prompts(str(tmp_path / "data.parquet"))
