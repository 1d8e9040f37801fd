"""What JSON cannot write is null in a file, and a file is replaced whole."""

import json
import math
from pathlib import Path

import pytest

from rlif.errors import UserError
from rlif.files.json_values import with_nan, without_nan, write_json
from tiny_models import files_of_at_most


def test_numbers_that_are_not_finite_are_null_wherever_they_are() -> None:
    value = {"a": math.nan, "b": [1, (math.inf, "nan")], "c": {"d": -math.inf, "e": None, "f": 0.5, "g": True}}
    plain = {"a": None, "b": [1, [None, "nan"]], "c": {"d": None, "e": None, "f": 0.5, "g": True}}
    assert without_nan(value) == plain
    assert json.loads(json.dumps(without_nan(value), allow_nan=False)) == plain


def test_null_in_a_row_of_numbers_is_nan_again() -> None:
    row = with_nan(without_nan({"step": 1, "loss": math.nan}))
    assert row["step"] == 1
    assert math.isnan(row["loss"])


def test_a_file_that_cannot_be_replaced_is_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "numbers.json"
    write_json(path, {"a": 1})
    assert path.read_text() == '{\n "a": 1\n}\n'
    with (
        files_of_at_most(20),
        pytest.raises(UserError, match=r"^output_dir: cannot write to .*numbers\.json: File"),
    ):
        write_json(path, {"a": "x" * 100})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_not_finite_is_null_in_a_file_too(tmp_path: Path) -> None:
    write_json(tmp_path / "numbers.json", {"a": math.nan, "b": [math.inf]}, indent=None)
    assert (tmp_path / "numbers.json").read_text() == '{"a": null, "b": [null]}\n'
