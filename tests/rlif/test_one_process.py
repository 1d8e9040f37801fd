"""Every command that can go on in a directory, or would replace one, leaves it to the process that has it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rlif import cli
from rlif.files.lock import Lock

# Of each command the words that would write to DIRECTORY.
WORDS = {
    "train": "--model MODEL --data DATA --output-dir DIRECTORY --resume",
    "eval": "--model MODEL --data DATA --output-dir DIRECTORY --resume",
    "self-feedback": "sample --model MODEL --data DATA --output-dir DIRECTORY",
    "diagnose": "--model MODEL --data DATA --output-dir DIRECTORY --resume",
    "explain": "MODEL OTHER --data DATA --output-dir DIRECTORY --resume",
    "retry": "--model MODEL --data DATA --discriminator DATA --output-dir DIRECTORY --resume",
    "introspect": "--model MODEL --data DATA --output-dir DIRECTORY --resume",
    "lab": "--output-dir DIRECTORY --resume",
    "demo": "--output-dir DIRECTORY --resume",
    "mix": "MODEL MODEL --ratio 0.5 --output-dir DIRECTORY",
    "convert": "MODEL --output-dir DIRECTORY",
}
# Their directories appear when they are whole.
WHOLE = {"mix", "convert"}
# This writes one file.
WRITE_NO_DIRECTORY = {"plot", "report"}


def test_every_command_has_a_row() -> None:
    assert {*WORDS} | WRITE_NO_DIRECTORY == {*cli.COMMANDS}


@pytest.mark.parametrize("command", WORDS)
def test_a_second_process_in_a_directory_is_refused_and_changes_nothing(
    command: str,
    model_dir: Path,
    write_jsonl: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    directory, data = tmp_path / "directory", write_jsonl({"prompt": "1+1=", "answer": 2})
    if command not in WHOLE:
        directory.mkdir()
    places = {"MODEL": model_dir, "OTHER": f"{model_dir}/.", "DATA": data, "DIRECTORY": directory}
    words = [str(places.get(word, word)) for word in WORDS[command].split()]
    monkeypatch.setattr(sys, "argv", ["rlif", command, *words])
    with Lock(directory, beside=command in WHOLE):
        with pytest.raises(SystemExit) as end:
            cli.main()
        before = [path.name for path in directory.iterdir()] if directory.exists() else []
    assert end.value.code == cli.BAD_INPUT
    error = capsys.readouterr().err
    assert f"rlif: error: output_dir: {directory} is in use by process {os.getpid()} on {os.uname().nodename};" in error
    assert before == ([] if command in WHOLE else [".lock"])
