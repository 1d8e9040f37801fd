"""A file is whole or as it was, whatever is written into it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from rlif.errors import UserError
from rlif.files.whole import write_text, written_whole
from rlif.plots.style import new_figure, save_figure
from tiny_models import files_of_at_most


def test_a_writer_that_fails_leaves_what_was_there_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with suppress(KeyboardInterrupt), written_whole(path) as unfinished:
        unfinished.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_removed_and_what_another_writes_is_not(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left, written = (tmp_path / f".unfinished-{number}-file.txt" for number in (ended.pid, os.getppid()))
    for path in (left, written):
        path.write_text("half")
    write_text(tmp_path / "file.txt", "new")
    assert sorted(tmp_path.iterdir()) == [written, tmp_path / "file.txt"]


def test_a_link_goes_on_leading_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "new"


def test_a_device_or_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    write_text(Path("/dev/null"), "nothing")
    assert Path("/dev/null").is_char_device()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_text(pipe, "through")
    reader.join(60)
    assert read == ["through"]


def test_a_figure_is_as_it_was_where_the_disk_is_full(tmp_path: Path) -> None:
    path = tmp_path / "figure.png"
    save_figure(new_figure(1, 1), path)
    before = path.read_bytes()
    with (
        files_of_at_most(50),
        pytest.raises(UserError, match=r"^output: cannot write to .*figure\.png: File"),
    ):
        save_figure(new_figure(1, 1), path, argument="output")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
