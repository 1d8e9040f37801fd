"""Nothing of what Windows lacks is needed: no locks, no flushing of directories, no removal of what is open.

No Windows ran these: `tests/helpers/windows.py` says what is made to look like it.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from rlif.errors import UserError
from rlif.files.directories import is_whole, write_directory
from rlif.files.lock import Lock
from rlif.files.whole import write_text
from runs import MakeConfig, train
from windows import pretend_windows

pytestmark = pytest.mark.skipif(sys.platform == "win32" or not os.path.exists("/dev/fd"), reason="needs /dev/fd")


def test_files_and_directories_are_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_windows(monkeypatch)
    for text in ("first", "second"):
        write_text(tmp_path / "file", text)
        write_directory(tmp_path / "directory", lambda path, text=text: (path / "in it").write_text(text))
        assert (tmp_path / "file").read_text() == (tmp_path / "directory" / "in it").read_text() == text
        assert is_whole(tmp_path / "directory")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["directory", "file"]


def test_a_lock_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_windows(monkeypatch)
    with Lock(tmp_path / "run") as lock:
        lock.make()
        assert lock.file.read_text().startswith(f"process {os.getpid()} on ")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_done_there_is_refused_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without which the other tests would hold nothing."""
    pretend_windows(monkeypatch)
    path = tmp_path / "file"
    with path.open("w"), pytest.raises(PermissionError):
        path.unlink()
    with path.open("r") as file, pytest.raises(OSError, match="Bad file descriptor"):
        os.fsync(file.fileno())
    with pytest.raises(PermissionError):
        os.open(tmp_path, os.O_RDONLY)
    with path.open("w"), pytest.raises(UserError, match="cannot write to"):
        write_text(path, "while it is open")
    path.unlink()


def test_a_run_trains_saves_and_resumes(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(max_steps=1, save_steps=1)
    pretend_windows(monkeypatch)
    assert train(config).last_step == 1
    result = train(make_config(max_steps=2, save_steps=1, resume=True))
    assert [row["step"] for row in result.rows][-1] == 2
    assert is_whole(config.output_dir / "model")
    steps = [json.loads(line)["step"] for line in (config.output_dir / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2]
    assert not list(config.output_dir.rglob("*.lock"))
