"""A JSONL file grows row by row, and goes on after a kill as if nothing had been."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlif.errors import UserError
from rlif.files.jsonl import JsonLines, StageFile, read_rows, settings_of
from tiny_models import files_of_at_most


def test_rows_are_forgotten_all_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    file = StageFile(path, {})
    file.append({"step": step, "text": "x" * 100} for step in range(9))
    before = path.read_bytes()
    with files_of_at_most(300), pytest.raises(UserError, match=r"output_dir: cannot write to .*metrics.jsonl"):
        file.keep(8)
    assert path.read_bytes() == before


def test_a_file_that_is_gone_is_one_error_when_it_is_waited_for(tmp_path: Path) -> None:
    rows = JsonLines(tmp_path / "rows.jsonl")
    rows.append([{"a": 1}])
    (tmp_path / "rows.jsonl").unlink()
    with pytest.raises(UserError, match=r"^output_dir: cannot write to .*rows\.jsonl: No such file"):
        rows.sync()


def test_a_line_that_was_cut_short_is_left_out_of_a_stages_file_and_refused_in_a_users(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_bytes('{"a": 1}\n{"b": "\u00e9'.encode()[:-1])  # killed while writing, in the middle of a character
    assert read_rows(path, growing=True) == [{"a": 1}]
    with pytest.raises(UserError, match="it is not UTF-8 text"):
        read_rows(path)


def test_rows_of_unknown_settings_are_never_continued(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text('{"a": 1}\n')
    with pytest.raises(UserError, match="which says what made them, is missing"):
        StageFile(path, {"seed": 0})
    assert path.read_text() == '{"a": 1}\n'


def test_a_file_goes_on_after_its_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes('{"a": 1}\n{"b": "\u00e9'.encode()[:-1])
    JsonLines(path).append([{"c": "\u00fc"}, {"d": [1, 2]}])
    assert path.read_text(encoding="utf-8") == '{"a": 1}\n{"c": "\u00fc"}\n{"d": [1, 2]}\n'


def test_a_file_goes_on_from_the_size_that_a_checkpoint_remembers(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    file = JsonLines(path, argument="run_dir", size=0)
    file.append([{"step": 1}], synced=False)
    size = file.sync()
    file.append([{"step": 2}], synced=False)
    JsonLines(path, size=size).append([{"step": 3}])
    assert [row["step"] for row in read_rows(path)] == [1, 3]
    with pytest.raises(UserError, match=r"resume: .*rows.jsonl has 24 bytes, expected the 99 of the checkpoint"):
        JsonLines(path, size=99)


def test_a_full_disk_is_an_error_that_keeps_the_rows_before(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    file = JsonLines(path, argument="run_dir")
    file.append([{"step": 1}])
    with files_of_at_most(20), pytest.raises(UserError, match=r"run_dir: cannot write to .*rows.jsonl: File too large"):
        file.append([{"text": "x" * 100}])
    assert read_rows(path, growing=True) == [{"step": 1}]


def test_names_of_an_earlier_version_are_read_and_continued_by_those_of_today(tmp_path: Path) -> None:
    path, renamed = tmp_path / "rows.jsonl", {"traces": "completions", "num_questions": "num_prompts"}
    StageFile(path, {"num_questions": 2}).append([{"traces": [1]}])
    file = StageFile(path, {"num_prompts": 2}, renamed)
    file.append([{"completions": [2]}])
    assert file.rows == read_rows(path, renamed=renamed) == [{"completions": [1]}, {"completions": [2]}]
    assert settings_of(path, renamed) == {"num_prompts": 2}
    with pytest.raises(UserError, match=r"num_prompts: got 3, but .* was made with 2"):
        StageFile(path, {"num_prompts": 3}, renamed)
