"""Every command says what it does before it does it, keeps what is done, and stops at the next forward if asked to."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from forwards import before_each_forward, done_of
from hurt import assert_same, run_in_process
from rlif.files.jsonl import read_rows

WriteJsonl = Callable[..., Path]

# Of each command that samples its words, the file that it keeps, and the rows in that which are no prompts.
SAMPLING = {
    "eval": ("--max-batch-tokens 100", "completions.jsonl", 0),
    "diagnose": ("--prompts-per-batch 2 --reward self_certainty --reward majority_vote", "samples.jsonl", 1),
    "self-feedback": ("--prompts-per-batch 2 --answer-span trace", "samples.jsonl", 0),
}
RESUME = {"eval": ["--resume"], "diagnose": ["--resume"], "self-feedback": []}


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No signal was sent before, and the clock prints no lines of its own."""
    monkeypatch.setattr("rlif.interrupts._last", float("-inf"))
    monkeypatch.setattr("rlif.doing.FIRST_SECONDS", float("inf"))
    monkeypatch.setattr("rlif.doing.LOG_SECONDS", float("inf"))


@pytest.fixture
def words(model_dir: Path, write_jsonl: WriteJsonl) -> Callable[[str, Path], list[str]]:
    """The words of a command that samples four completions of each of six prompts, two prompts at a time."""
    rows = [{"prompt": f"{a}+{b}=", "answer": a + b} for a in (1, 20) for b in (3, 4, 50)]

    def make(command: str, directory: Path) -> list[str]:
        stage = ["sample"] if command == "self-feedback" else []
        common = f"--model {model_dir} --data {write_jsonl(*rows)} --output-dir {directory} --device cpu"
        common += " --num-generations 4 --max-completion-length 6"
        return [command, *stage, *common.split(), *SAMPLING[command][0].split()]

    return make


@pytest.mark.parametrize("command", SAMPLING)
def test_a_command_that_samples_keeps_each_part_and_stops_at_the_next_forward_and_goes_on(
    command: str,
    words: Callable[[str, Path], list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, name, others = SAMPLING[command]
    kept, forwards, stopped_at = tmp_path / "part" / name, 0, None

    def stop_in_the_third_batch(number: int, what: str) -> None:
        nonlocal forwards, stopped_at
        forwards = number
        if "Sampling" not in what:
            return
        assert what != "Sampling"  # what takes minutes is named, that of long prompts too
        said = capsys.readouterr().err
        assert said.startswith("Sampling: 0 of 6 prompts\n") == (done_of("Sampling") == 0 and bool(said))
        if done := done_of("Sampling"):
            assert len(read_rows(kept)) - others == done
        if done == 4 and "completions" in what:
            stopped_at = stopped_at or number
            os.kill(os.getpid(), signal.SIGTERM)

    with before_each_forward(stop_in_the_third_batch):
        assert run_in_process(words(command, tmp_path / "part"), monkeypatch) == 128 + signal.SIGTERM
    assert stopped_at is not None
    assert forwards == stopped_at
    assert "--resume goes on" in (said := capsys.readouterr().err) or "the same command goes on" in said
    assert run_in_process([*words(command, tmp_path / "part"), *RESUME[command]], monkeypatch) == 0
    assert "Sampling: 4 of 6 prompts" in capsys.readouterr().err
    assert run_in_process(words(command, tmp_path / "whole"), monkeypatch) == 0
    ours, theirs = (
        [{key: value for key, value in row.items() if key != "checksum"} for row in read_rows(tmp_path / run_ / name)]
        for run_ in ("part", "whole")
    )
    assert_same(ours, theirs)
