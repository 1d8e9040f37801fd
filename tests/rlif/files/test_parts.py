"""Parts of work are on the disk when they are done, are gone on with, and are nobody else's."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlif.errors import UserError
from rlif.files.parts import PartsFile
from tiny_models import files_of_at_most

WORK = {"model": "m", "temperature": 1.0}
ROWS = [{"answer": "2", "values": [0.1, 1e-17]}, {"answer": None, "values": []}]


def test_parts_are_there_again_as_they_were_and_a_line_that_was_cut_short_is_not(tmp_path: Path) -> None:
    path = tmp_path / "parts.jsonl"
    PartsFile(path, WORK).append(ROWS)
    with path.open("a") as file:
        file.write('{"answer": "3", "val')
    again = PartsFile(path, WORK)
    assert again.rows == ROWS
    again.append(ROWS[:1])
    assert PartsFile(path, WORK).rows == [*ROWS, ROWS[0]]


def test_the_parts_of_other_work_are_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "parts.jsonl"
    PartsFile(path, WORK).append(ROWS)
    assert PartsFile(path, WORK | {"model": "another"}).rows == []
    assert PartsFile(path, WORK).rows == []


@pytest.mark.parametrize("change", [("1e-17", "2e-17"), ('"2"', "2"), ('"crc32"', '"sum"')])
def test_a_part_that_somebody_has_changed_is_one_error(change: tuple[str, str], tmp_path: Path) -> None:
    path = tmp_path / "parts.jsonl"
    PartsFile(path, WORK).append(ROWS)
    first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([first, *(row.replace(*change) for row in rest), ""]))
    with pytest.raises(UserError, match=r"^resume: .*\.jsonl, line 2: has changed .* or the file removed"):
        PartsFile(path, WORK)


def test_a_full_disk_is_an_error_that_leaves_the_parts_before(tmp_path: Path) -> None:
    path = tmp_path / "parts.jsonl"
    file = PartsFile(path, WORK)
    file.append(ROWS)
    with files_of_at_most(path.stat().st_size), pytest.raises(UserError, match="cannot write to"):
        file.append(ROWS)
    assert PartsFile(path, WORK).rows == ROWS
