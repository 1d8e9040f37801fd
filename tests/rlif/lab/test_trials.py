"""The data of the trials is apart, and a process that dies is said so."""

from __future__ import annotations

import json
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from rlif.errors import UserError
from rlif.lab import trials
from rlif.lab.options import LabConfig, Size
from rlif.lab.plan import Trial
from rlif.lab.trials import write_data
from rlif.tasks.arithmetic import ArithmeticConfig, split_of


def test_what_the_guard_sees_has_no_answers_and_no_problem_is_in_two_sets(tmp_path: Path) -> None:
    size = Size(max_steps=2, eval_steps=1, guard_prompts=20, eval_prompts=30, test_prompts=40)
    write_data(tmp_path / "data", ArithmeticConfig(), size, seeds=2)
    evaluated, test, *training = (
        [json.loads(line) for line in (tmp_path / "data" / f"{name}.jsonl").read_text().splitlines()]
        for name in ("eval", "test", "train-0", "train-1")
    )
    assert ["answer" in row for row in evaluated] == [False] * 20 + [True] * 30
    prompts = [row["prompt"] for row in evaluated + test]
    assert len(set(prompts)) == len(prompts) == 90
    assert all(split_of(row["prompt"]) == "train" for rows in training for row in rows)
    assert training[0] != training[1]


def test_a_trial_whose_process_dies_is_an_error_in_plain_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dead: Future[None] = Future()
    dead.set_exception(BrokenProcessPool("terminated abruptly"))
    pool = SimpleNamespace(submit=lambda *args: dead, shutdown=lambda **options: None)
    monkeypatch.setattr(trials, "ProcessPoolExecutor", lambda *args, **options: pool)
    size = Size(1, 1, guard_prompts=1, eval_prompts=1, test_prompts=1)
    with pytest.raises(UserError, match="workers: the process of a trial died"):
        trials.run_trials(tmp_path, LabConfig(workers=2), size, [Trial(0, 0.0, "self_certainty")], Console(quiet=True))
