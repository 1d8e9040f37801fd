"""A row that has changed on the disk is told from what was written, and one without a checksum is taken as it is."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from rlif.errors import UserError
from rlif.files.checksums import SEAL, check_seal, sealed
from rlif.files.jsonl import StageFile, read_rows

ROW = {"index": 3, "text": "é\u2028", "scores": {"a": [0.1, 1e-300, math.nan], "b": None}, "ids": (1, 2), "sure": True}


def test_a_row_comes_back_without_its_checksum_and_every_changed_value_is_seen() -> None:
    written = json.dumps(sealed(ROW), ensure_ascii=False)
    row = json.loads(written)
    check_seal(row, "row")
    assert SEAL not in row
    for before, after in (("3", "4"), ("é", "e"), ("0.1", "0.2"), ("[1, 2]", "[1, 3]"), ("true", "false")):
        with pytest.raises(UserError, match=r"^here: has changed since it was written; expected it as it was, or with"):
            check_seal(json.loads(written.replace(before, after, 1)), "here")


def test_rows_of_a_stage_are_held_to_their_checksums_unless_somebody_has_removed_them(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    file = StageFile(path, {})
    file.append({"number": number} for number in range(3))
    file.keep(2)
    assert StageFile(path, {}).rows == read_rows(path) == [{"number": 0}, {"number": 1}]
    text = path.read_text()
    path.write_text(text.replace('"number": 1', '"number": 7'))
    with pytest.raises(UserError, match=r"^output_dir: .*rows\.jsonl, line 2: has changed since it was written"):
        StageFile(path, {})
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({"number": row["number"]}) + "\n" for row in rows))
    assert read_rows(path) == [{"number": 0}, {"number": 7}]
