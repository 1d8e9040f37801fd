"""What was there is lost neither to an error nor to an impatient Ctrl-C, whichever thread receives it."""

import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

from rlif.errors import UserError
from rlif.files.directories import damage, is_whole, write_directory
from rlif.interrupts import StopRequest


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_directory(tmp_path / "model", lambda path: write(path, "old"))
    return tmp_path / "model"


def write(path: Path, text: str) -> None:
    (path / "text").write_text(text)


def test_a_copy_of_a_whole_directory_is_whole(directory: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    write_directory(copy, lambda path: shutil.copytree(directory, path, dirs_exist_ok=True))
    assert is_whole(copy)
    (copy / "text").write_text("other")
    assert not is_whole(copy)
    assert not is_whole(tmp_path / "missing")


def test_what_was_there_comes_back_if_the_new_cannot_take_its_place(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def fail(path: Path, target: Path) -> Path:
        if path.name == ".model-unfinished":
            raise OSError(5, "Input/output error")
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fail)
        with pytest.raises(UserError, match=r"cannot save .*Input/output error"):
            write_directory(directory, lambda path: write(path, "new"))
    assert (directory / "text").read_text() == "old"
    assert [path.name for path in directory.parent.iterdir()] == ["model"]


def test_a_process_that_died_between_two_renames_lost_nothing(directory: Path) -> None:
    directory.rename(directory.with_name(".model-replaced-unfinished"))

    def fail(path: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="No space left"):
        write_directory(directory, fail)
    assert (directory / "text").read_text() == "old"


def test_a_tokenizer_that_finds_the_disk_full_is_one_error(directory: Path) -> None:
    def fail(path: Path) -> None:
        raise Exception("No space left on device (os error 28)")  # as the tokenizers library does

    with pytest.raises(UserError, match=r"cannot save .*No space left"):
        write_directory(directory, fail)
    assert (directory / "text").read_text() == "old"


@pytest.mark.parametrize(
    "text",
    ["[]", "3", "[" * 3000, '{"sha256": {"a\\u0000": "x"}}', '{"sha256": {"..": "x"}}']
    + [f'{{"sha256": {files}}}' for files in ("[3]", "[]", "{}")],
)
def test_checksums_that_make_no_sense_are_damage(text: str, directory: Path) -> None:
    assert damage(directory) is None
    (directory / "manifest.json").write_text(text)
    assert "cannot be read" in (damage(directory) or "")


def test_signals_wait_until_all_is_written_whichever_thread_receives_them(directory: Path) -> None:
    done = threading.Event()
    threading.Thread(target=done.wait, daemon=True).start()

    def interrupt(path: Path) -> None:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.02)
        write(path, "new")

    try:
        with pytest.raises(KeyboardInterrupt), StopRequest():
            write_directory(directory, interrupt)
    finally:
        done.set()
    assert (directory / "text").read_text() == "new"
    assert damage(directory) is None
