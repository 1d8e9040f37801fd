"""The suite `verify` trains, lets each model verify its solutions, goes on where it stopped, and draws its table."""

import pytest

from benchmarks.report.verify import verify
from benchmarks.runner import Options
from benchmarks.steps import kept_runs
from benchmarks.steps import verify as suite
from rlif.demo.options import DemoConfig
from rlif.tasks.arithmetic import ArithmeticConfig
from rlif.tasks.options import BaseModelConfig


@pytest.mark.slow
def test_every_run_is_measured_and_what_is_finished_is_not_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("RLIF_CACHE_DIR", str(tmp_path / "cache"))
    base = BaseModelConfig(task=ArithmeticConfig(digits=1), hidden_size=64, num_hidden_layers=1, pretraining_steps=60,
                           pretraining_batch_size=16)  # fmt: skip
    monkeypatch.setattr(suite, "demo_config", lambda seed: DemoConfig(seed=seed, base=base))
    monkeypatch.setattr(suite, "RUNS", tmp_path / "runs")
    options = Options(tmp_path, size="tiny")
    first = {"missing": {}, "entries": []}
    suite.add_start(options, first)
    suite.add_run(options, "solve and verify", 0, first)
    assert [entry["run"] for entry in first["entries"]] == ["start", "solve and verify"]
    assert first["entries"][1]["course"][-1]["step"] == 2
    monkeypatch.setattr(kept_runs, "train", None)
    again = {"missing": {}, "entries": []}
    suite.add_start(options, again)
    suite.add_run(options, "solve and verify", 0, again)
    assert again == first
    assert "| solve and verify | " in verify(first)
