"""A directory belongs to one process at a time, and to nobody when that process has ended, however it ended."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rlif.errors import UserError
from rlif.files.lock import Lock, is_locked

OWNER = """
import sys, time
from pathlib import Path
from rlif.files.lock import Lock
with Lock(Path(sys.argv[1])) as lock:
    lock.make()
    print("locked", flush=True)
    {then}
"""


def start_owner(directory: Path, then: str = "time.sleep(600)") -> subprocess.Popen[str]:
    """A process that has the directory."""
    words = [sys.executable, "-c", OWNER.format(then=then), str(directory)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    return process


def test_a_second_process_is_told_who_the_first_one_is(tmp_path: Path) -> None:
    owner = start_owner(tmp_path / "run")
    try:
        name = rf"process {owner.pid} on {os.uname().nodename}"
        with pytest.raises(UserError, match=rf"^output_dir: .*run is in use by {name}; expected one that no other run"):
            Lock(tmp_path / "run").__enter__()
        assert is_locked(tmp_path / "run" / ".lock")
    finally:
        owner.kill()
        owner.wait()


def test_the_lock_of_a_killed_process_excludes_nobody(tmp_path: Path) -> None:
    owner = start_owner(tmp_path / "run")
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    assert (tmp_path / "run" / ".lock").exists()
    assert not is_locked(tmp_path / "run" / ".lock")
    with Lock(tmp_path / "run"):
        assert (tmp_path / "run" / ".lock").read_text().startswith(f"process {os.getpid()} on ")
    assert list((tmp_path / "run").iterdir()) == []


def test_a_child_of_a_killed_process_does_not_keep_the_lock(tmp_path: Path) -> None:
    # The child says when it is there: it has forgotten the lock by then.
    fork = "import os; os.fork() or print(os.getpid(), flush=True); time.sleep(600)"
    owner = start_owner(tmp_path / "run", fork)
    assert owner.stdout is not None
    child = int(owner.stdout.readline())
    owner.kill()
    owner.wait()
    try:
        with Lock(tmp_path / "run"):
            pass
    finally:
        os.kill(child, signal.SIGKILL)


def test_whoever_waits_has_the_directory_when_it_is_free(tmp_path: Path) -> None:
    waiting = threading.Event()
    first, second = Lock(tmp_path), Lock(tmp_path, wait=lambda owner: waiting.set())
    first.take()
    waiter = threading.Thread(target=second.__enter__)
    waiter.start()
    assert waiting.wait(60)
    first.release()  # which removes the file that the waiter has open
    waiter.join(60)
    with pytest.raises(UserError, match="is in use by"):
        first.take()
    second.release()
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_stays_empty_is_not_left_behind(tmp_path: Path) -> None:
    with Lock(tmp_path / "new") as lock:
        lock.make()
    assert not (tmp_path / "new").exists()
    (tmp_path / "users").mkdir()
    with Lock(tmp_path / "users") as lock:
        lock.make()
    assert (tmp_path / "users").exists()


def test_a_directory_that_is_removed_meanwhile_is_no_error(tmp_path: Path) -> None:
    with Lock(tmp_path / "new") as lock:
        lock.make()
        lock.file.unlink()
        lock.directory.rmdir()


def test_a_file_system_without_locks_is_no_reason_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", refuse)
    with Lock(tmp_path):
        assert not is_locked(tmp_path / ".lock")


@pytest.mark.parametrize(("name", "fault"), [("file", "File exists"), ("file/run", "Not a directory")])
def test_a_directory_that_cannot_be_made_is_one_error(name: str, fault: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=rf"^output_dir: cannot make .*: {fault}"):
        Lock(tmp_path / name).make()


def test_of_two_processes_that_make_one_directory_the_second_is_told_of_the_first(tmp_path: Path) -> None:
    with Lock(tmp_path / "run") as lock:  # there was no such directory yet
        (tmp_path / "run").mkdir()
        with pytest.raises(UserError, match=r"^output_dir: another process has just made .*run, expected a new direc"):
            lock.make(exist_ok=False)
