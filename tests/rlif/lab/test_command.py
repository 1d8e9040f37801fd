"""The lab goes from nothing to a report, and goes on where it was stopped."""

from __future__ import annotations

import json
import multiprocessing
import resource
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fault_rows import run_small_trial
from rlif.errors import UserError
from rlif.lab import command, trials
from rlif.lab.command import run as run_lab
from rlif.lab.options import LabConfig, Size
from rlif.lab.plan import Trial, plan_trials
from rlif.tasks.arithmetic import ArithmeticConfig
from tiny_lab import BASE, INSTRUCT

TINY = LabConfig(quick=True, workers=2, base=BASE, instruct=INSTRUCT)


@pytest.mark.slow
def test_a_tiny_lab_writes_its_report_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RLIF_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("rlif.lab.options.QUICK", Size(5, 5, guard_prompts=4, eval_prompts=4, test_prompts=4))
    some = [each for each in plan_trials(TINY) if each.ratio == 0.0 or (each.ratio < 1.0 and each.ratio != 0.1)]
    monkeypatch.setattr(command, "plan_trials", lambda config: [*some, Trial(0, 1.0, "self_certainty")])
    # A step of few completions: how many there are is the trainer's business.
    monkeypatch.setattr(trials, "run_trial", partial(run_small_trial, resource.getrlimit(resource.RLIMIT_FSIZE)))
    config = replace(TINY, output_dir=tmp_path / "lab")
    with monkeypatch.context() as patch:  # its workers need not import; that of the resumed lab starts as a user's does
        get_context = multiprocessing.get_context
        patch.setattr(
            multiprocessing, "get_context", lambda way=None: get_context("forkserver" if way == "spawn" else way)
        )
        run_lab(config)
    first = json.loads((tmp_path / "lab" / "lab.json").read_text())
    assert [trial["reward"] for trial in first["trials"]] == [trial.reward for trial in command.plan_trials(config)]
    assert not any("eval/gold_prompts" in row for trial in first["trials"] for row in trial["rows"])
    page = (tmp_path / "lab" / "report.md").read_text()
    for figure in ("training.png", "guard.png", "mixes.png", "confidence.png", "reliability.png"):
        assert f"({figure})" in page
        assert (tmp_path / "lab" / figure).stat().st_size > 10_000
    assert page.count("*Paper:*") == len(first["findings"]) == 5

    lost = tmp_path / "lab" / "runs" / "base-self_certainty-seed-0"
    shutil.rmtree(lost)
    kept = tmp_path / "lab" / "runs" / "base-verifiable-seed-0" / "result.json"
    before = kept.stat().st_mtime_ns
    capsys.readouterr()
    run_lab(replace(config, resume=True))
    assert kept.stat().st_mtime_ns == before
    out = capsys.readouterr().out
    assert "base-self_certainty-seed-0: accuracy" in out
    assert "base-verifiable" not in out
    again = json.loads((tmp_path / "lab" / "lab.json").read_text())
    times = ("seconds", "cpu_seconds")
    assert [{k: v for k, v in trial.items() if k not in times} for trial in again["trials"]] == [
        {k: v for k, v in trial.items() if k not in times} for trial in first["trials"]
    ]

    with pytest.raises(UserError, match="resume: seeds is 2, but the lab had 3"):
        run_lab(replace(config, resume=True, seeds=2))
    with pytest.raises(UserError, match=r"output_dir: .* exists, expected a new directory, or --resume"):
        run_lab(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 0}, "seeds: got 0, expected an integer of at least 1"),
        ({"workers": 0}, "workers: got 0"),
        (
            {"base": replace(BASE, task=ArithmeticConfig(digits=1))},
            "base.task: 2 numbers of 1 digits make about 10 held",
        ),
        ({"resume": True}, "output_dir: got none, expected the directory of the lab to resume"),
    ],
)
def test_bad_options_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_lab(replace(TINY, **changes))
