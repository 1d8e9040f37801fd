"""The benchmark of a step inside TRL, on something tiny."""

import json
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

pytest.importorskip("trl", reason="trl is not installed: pip install 'rlif[trl]'")

from benchmarks.steps import trl_step
from benchmarks.steps.training_step import Workload

WORKLOAD = Workload(
    vocab_size=50, hidden_size=16, num_layers=1, prompts=2, num_generations=3, prompt_length=4,
    max_completion_length=20, steps=2,
)  # fmt: skip


def test_all_trainers_reward_the_same_completions_alike_and_the_phases_add_up(tmp_path: Path) -> None:
    found = {name: trl_step.train(name, WORKLOAD, tmp_path / name) for name in trl_step.IMPLEMENTATIONS}
    expected = found["TRL"]["first_rewards"]
    assert len(expected) == 6
    assert len(set(expected)) > 1
    for measured in found.values():
        assert measured["first_rewards"] == pytest.approx(expected, abs=trl_step.REWARD_GAP["cpu"])
        assert measured["peak_bytes"] > 0
        assert len(measured["steps"]) == 2
        for step in measured["steps"]:
            assert step["sampling"] + step["scoring"] + step["update"] == pytest.approx(step["step"])
            assert min(step.values()) > 0


def test_a_trainer_that_was_killed_is_named_and_the_others_are_still_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    rewards = {"RLIFTrainer": [1.0, 2.0], trl_step.PARTS: [1.0, 2.0]}

    def run(command: list[str], **_: Any) -> CompletedProcess[str]:
        name = command[command.index("--implementation") + 1]
        if name == "TRL":
            return CompletedProcess(command, -9, "", "")
        step = {"sampling": 1.0, "scoring": 1.0, "update": 1.0, "step": 3.0, "tokens": 9}
        measured = {"steps": [step] * 3, "first_rewards": rewards[name], "peak_bytes": 1}
        return CompletedProcess(command, 0, json.dumps(measured), "")

    monkeypatch.setattr(trl_step.subprocess, "run", run)
    found = trl_step.run(quick=True, repeats=1)
    assert found["missing"] == {"TRL": "exit status -9"}
    assert set(found["implementations"]) == set(rewards)
    rewards["RLIFTrainer"] = [1.0, 2.1]
    with pytest.raises(
        RuntimeError, match=r"RLIFTrainer: rewards differ from TRL with use_fused_token_stats.* by 1.0e-01"
    ):
        trl_step.run(quick=True, repeats=1)
