"""The benchmark of a step inside TRL, on something tiny."""

from pathlib import Path

import pytest

pytest.importorskip("trl", reason="trl is not installed: pip install 'rlif[trl]'")

from benchmarks import trl_step
from benchmarks.training_step import Workload

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
