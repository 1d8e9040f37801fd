"""The lab goes from nothing to a report, goes on where it was stopped, and says of made-up trials what they show."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from rlif.errors import UserError
from rlif.lab import command, trials
from rlif.lab import options as options_module
from rlif.lab.command import run as run_lab
from rlif.lab.figures import _curve
from rlif.lab.findings import course, findings
from rlif.lab.guard_rules import late_choices, rules_table
from rlif.lab.options import FULL, QUICK, LabConfig, Size
from rlif.lab.plan import INTERNAL, RATIOS, Trial, plan
from rlif.lab.trials import write_data
from rlif.lab.verdicts import outcome
from rlif.tasks.arithmetic import ArithmeticConfig, split_of
from rlif.tasks.options import BaseModelConfig, InstructModelConfig

TASK = ArithmeticConfig(digits=2)
BASE = BaseModelConfig(task=TASK, hidden_size=64, num_hidden_layers=1, pretraining_steps=40, pretraining_batch_size=16)
TINY = LabConfig(quick=True, workers=2, base=BASE, instruct=InstructModelConfig(base=BASE, task=TASK, steps=5))


def test_a_tiny_lab_writes_its_report_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RLIF_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(options_module, "QUICK", Size(5, 5, guard_prompts=4, eval_prompts=4, test_prompts=4))
    some = [each for each in plan(TINY) if each.ratio == 0.0 or (each.ratio < 1.0 and each.ratio != 0.1)]
    monkeypatch.setattr(command, "plan", lambda config: [*some, Trial(0, 1.0, "self_certainty")])
    config = replace(TINY, output_dir=tmp_path / "lab")
    run_lab(config)
    first = json.loads((tmp_path / "lab" / "lab.json").read_text())
    assert [trial["reward"] for trial in first["trials"]] == [trial.reward for trial in command.plan(config)]
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


def test_the_full_plan_has_every_reward_at_both_ends_for_every_seed_and_every_mix() -> None:
    trials = plan(LabConfig())
    assert len(set(trials)) == len(trials)
    for seed in range(3):
        for reward in (*INTERNAL, "verifiable"):
            assert {Trial(seed, 0.0, reward), Trial(seed, 1.0, reward)} <= set(trials)
        assert {Trial(seed, ratio, "self_certainty") for ratio in RATIOS} <= set(trials)
    assert FULL.max_steps > QUICK.max_steps


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


def made_up(ratio: float, reward: str, accuracy: Sequence[float], entropy: float, guard_step: int) -> dict[str, Any]:
    """A trial whose accuracy runs as given, one evaluation every 10 steps."""
    middle = len(accuracy) // 2
    rows = [
        {"step": 10 * i, "reward": i, "eval/accuracy": value, "eval/entropy": entropy * 0.9**i}
        | {"eval/self_certainty": 1.0 + i, "eval/kl": 0.01 * i, "eval/base_nll": 0.1 + 0.01 * abs(i - middle)}
        | {"eval/agreement": 0.5 + 0.01 * i}
        for i, value in enumerate(accuracy)
    ]
    looks = {"start": 0.5, "guarded": 0.6, "last": 0.1}
    named = {"ratio": ratio, "reward": reward, "seed": 0, "guard_step": guard_step, "rows": rows}
    return named | {
        "accuracy": looks,
        "parsed": dict.fromkeys(looks, 1.0),
        "doubt": {"start": 0.3, "guarded": 0.1, "last": 0.0},
        "probability": {"start": 0.5, "guarded": 0.7, "last": 0.9},
    }


RISING_AND_FALLING = (0.4, 0.5, 0.6, 0.4, 0.1)
FLAT = (0.8, 0.81, 0.8, 0.8, 0.79)
FALLING = (0.7, 0.6, 0.5, 0.3, 0.2)


def test_findings_say_what_the_trials_show() -> None:
    base = [made_up(0.0, reward, RISING_AND_FALLING, 0.8, 20) for reward in INTERNAL]
    sure = [made_up(1.0, reward, FLAT, 0.1, 0) for reward in INTERNAL]
    mixed = [made_up(0.2, "self_certainty", (0.6, 0.65, 0.7, 0.6, 0.5), 0.5, 20)]
    assert {each.title: each.agreement for each in findings([*base, *sure, *mixed])} == {
        "Rise, then fall": "seen",
        "One direction early": "seen",
        "Nothing for an instruction-tuned model": "seen",
        "Gain shrinks with initial entropy": "seen",
        "Early gains are format and confidence": "partly",
    }
    # The other way round nothing of it is seen.
    other = [made_up(0.0, reward, FLAT, 0.8, 0) for reward in INTERNAL]
    other += [made_up(1.0, reward, RISING_AND_FALLING, 0.1, 20) for reward in INTERNAL]
    agreement = [each.agreement for each in findings(other)]
    assert (agreement[0], agreement[2], agreement[3]) == ("not seen", "not seen", "not seen")


def test_one_reward_that_rises_and_another_that_falls_are_no_rise_and_fall() -> None:
    rising = (0.4, 0.5, 0.6, 0.6, 0.6)
    base = [made_up(0.0, reward, rising if i else FALLING, 0.8, 0) for i, reward in enumerate(INTERNAL)]
    sure = [made_up(1.0, reward, FLAT, 0.1, 0) for reward in INTERNAL]
    first, *_, last = findings([*base, *sure])
    assert first.agreement == "not seen"
    assert "functions of the distributions alone" not in first.seen  # token entropy did not fall either
    stated = [each | {"parsed": {"start": 0.3, "guarded": 0.9, "last": 0.9}} for each in base]
    assert "Format gained +0.0 points" in last.seen
    assert "Format gained +60.0 points" in findings([*stated, *sure])[-1].seen


def test_a_reward_that_falls_is_drawn_on_the_scale_of_its_fall() -> None:
    trial = made_up(0.0, "self_certainty", FLAT * 2, 0.8, 0)
    for row in trial["rows"]:
        row["reward"] = -row["step"]
    drawn = list(_curve(trial, "reward").values())
    assert (drawn[0], drawn[-1]) == (pytest.approx(1.0), 0.0)


def test_a_trial_whose_process_dies_is_an_error_in_plain_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dead: Future[None] = Future()
    dead.set_exception(BrokenProcessPool("terminated abruptly"))
    pool = SimpleNamespace(submit=lambda *args: dead, shutdown=lambda **options: None)
    monkeypatch.setattr(trials, "ProcessPoolExecutor", lambda *args, **options: pool)
    size = Size(1, 1, guard_prompts=1, eval_prompts=1, test_prompts=1)
    with pytest.raises(UserError, match="workers: the process of a trial died"):
        trials.run_trials(tmp_path, TINY, size, [Trial(0, 0.0, "self_certainty")], Console(quiet=True))


def test_a_choice_after_the_guard_would_have_stopped_is_named() -> None:
    trial = made_up(0.0, "self_certainty", RISING_AND_FALLING, 0.8, 40)
    for row, falling in zip(trial["rows"], (0, 1, 2, 3, 0), strict=True):
        row["guard/falling"] = float(falling)
    assert late_choices([trial]) == ["base-self_certainty-seed-0"]
    assert late_choices([trial | {"guard_step": 0}]) == []


def test_regret_is_counted_from_the_best_checkpoint() -> None:
    trial = made_up(0.0, "self_certainty", RISING_AND_FALLING, 0.8, 10)
    assert course(trial).peak_step == 20
    table = {each["rule"]: each for each in rules_table([trial])}
    assert table["guard"]["regret"] == pytest.approx(0.1)
    assert table["no guard: the last step"]["regret"] == pytest.approx(0.5)
    assert table["no training: the start model"]["gain"] == 0.0
    assert table["the start model's NLL, lowest"]["regret"] == 0.0


def test_outcomes_are_what_training_did() -> None:
    assert outcome([made_up(0.0, "self_certainty", RISING_AND_FALLING, 0.8, 20)]) == "likely to help"
    assert outcome([made_up(0.0, "self_certainty", FALLING, 0.8, 0)]) == "risk of collapse"
    assert outcome([made_up(0.0, "self_certainty", FLAT, 0.8, 10)]) == "little to gain"
