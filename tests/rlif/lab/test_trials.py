"""The data of the trials is apart, and a process that dies is said so."""

from __future__ import annotations

import json
import multiprocessing
import time
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from hurt import HOSTILE_VALUES
from made_up_trials import FLAT, made_up, never_ends
from rlif.errors import UserError
from rlif.files.json_values import write_json
from rlif.lab import trials
from rlif.lab.options import LabConfig, Size
from rlif.lab.plan import Trial
from rlif.lab.trials import read_result, write_data
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


@pytest.mark.parametrize("name", ["reward", "seed", "cpu_seconds", "accuracy", "probability", "rows"])
def test_a_result_that_somebody_has_changed_is_one_error(name: str, tmp_path: Path) -> None:
    path, result = tmp_path / "result.json", made_up(0.0, "self_certainty", FLAT, 0.8, 10)
    write_json(path, result)
    assert read_result(path) == result
    for value in HOSTILE_VALUES:
        if not isinstance(value, {"reward": str, "seed": int | float, "cpu_seconds": int | float}.get(name, bytes)):
            write_json(path, result | {name: value})
            with pytest.raises(UserError, match=rf"^output_dir: .*result\.json has no {name}.* expected what a trial"):
                read_result(path)
    for text in ("[]", "null", "[" * 3000, ""):
        path.write_text(text)
        with pytest.raises(UserError, match=r"^output_dir: .*result\.json"):
            read_result(path)


def test_a_trial_whose_process_dies_is_an_error_in_plain_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dead: Future[None] = Future()
    dead.set_exception(BrokenProcessPool("terminated abruptly"))
    pool = SimpleNamespace(submit=lambda *args: dead, shutdown=lambda **options: None)
    monkeypatch.setattr(trials, "ProcessPoolExecutor", lambda *args, **options: pool)
    size = Size(1, 1, guard_prompts=1, eval_prompts=1, test_prompts=1)
    with pytest.raises(UserError, match="workers: the process of a trial died"):
        trials.run_trials(tmp_path, LabConfig(workers=2), size, [Trial(0, 0.0, "self_certainty")], Console(quiet=True))


def test_a_lab_that_is_interrupted_does_not_wait_for_its_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = Size(1, 1, guard_prompts=1, eval_prompts=1, test_prompts=1)
    planned = [Trial(0, 0.0, reward) for reward in ("self_certainty", "verifiable")]
    wait_for = trials.wait

    def interrupted(pending: set[Future[None]], **options: object) -> object:
        if (tmp_path / "begun").exists():
            raise KeyboardInterrupt
        return wait_for(pending, timeout=0.05)

    monkeypatch.setattr(trials, "run_trial", never_ends)
    monkeypatch.setattr(trials, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trials.run_trials(tmp_path, LabConfig(workers=1), size, planned, Console(quiet=True))
    deadline = time.monotonic() + 60
    while multiprocessing.active_children():  # reaps those that have ended
        assert time.monotonic() < deadline
        time.sleep(0.05)
