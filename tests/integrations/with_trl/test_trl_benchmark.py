"""The benchmark of a step inside TRL, on something tiny."""

from pathlib import Path

import pytest

pytest.importorskip("trl", reason="trl is not installed: pip install 'rlif[trl]'")

from benchmarks import runner
from benchmarks.memory import FreshProcessError, in_fresh_process
from benchmarks.runner import Options, run_suite
from benchmarks.steps import trl_step
from benchmarks.steps.training_step import INSIDE, PARTS, STOCK, measure_trainer
from benchmarks.steps.workload import Workload

WORKLOAD = Workload(
    vocab_size=50, hidden_size=16, num_layers=1, prompts=2, num_generations=3, prompt_length=4,
    max_completion_length=20, steps=2,
)  # fmt: skip


def test_all_trainers_reward_their_completions_by_the_formula_and_the_phases_add_up() -> None:
    found = {name: in_fresh_process(measure_trainer, name, WORKLOAD) for name in trl_step.TRAINERS}
    for measured in found.values():
        assert measured["reward_gap"] <= trl_step.REWARD_GAP["cpu"]
        assert measured["peak_bytes"] > 0
        assert len(measured["steps"]) == 2
        for step in measured["steps"]:
            assert step["sampling"] + step["scoring"] + step["update"] == pytest.approx(step["step"])
            assert min(step.values()) > 0


@pytest.mark.parametrize(("gap", "named"), [(1e-5, {STOCK}), (0.1, {STOCK, INSIDE})])
def test_a_trainer_that_was_killed_or_rewards_otherwise_is_named_and_the_others_are_compared(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gap: float, named: set[str]
) -> None:
    gaps = {INSIDE: gap, PARTS: 0.0}

    def killed_if_stock(measure: object, name: str, work: object) -> dict[str, object]:
        if name == STOCK:
            raise FreshProcessError("its process ended with exit code -9, perhaps for want of memory")
        step = {"sampling": 1.0, "scoring": 1.0, "update": 1.0, "step": 3.0, "tokens": 9}
        return {"steps": [step] * 3, "reward_gap": gaps[name], "peak_bytes": 1}

    monkeypatch.setattr(runner, "in_fresh_process", killed_if_stock)
    options = Options(tmp_path, size="tiny", repeats=1)
    found = run_suite("trl-step", options, trl_step.steps(options))
    assert set(found["missing"]) == named
    assert "exit code -9" in found["missing"][STOCK]
    assert set(found["implementations"]) == set(trl_step.TRAINERS) - named
    if INSIDE in named:
        assert "rewards differ by 1.0e-01 from Intuitor's formula" in found["missing"][INSIDE]
