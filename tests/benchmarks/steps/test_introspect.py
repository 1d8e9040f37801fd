"""The suite `introspect` trains, measures over turns, goes on where it stopped, and its table shows it."""

import pytest

from benchmarks.report.introspect import introspect
from benchmarks.runner import Options
from benchmarks.steps import introspect as suite
from rlif.demo.options import DemoConfig
from rlif.tasks.arithmetic import ArithmeticConfig
from rlif.tasks.options import BaseModelConfig


@pytest.mark.slow
def test_every_run_is_measured_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("RLIF_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(suite, "RUNS", tmp_path / "runs")
    base = BaseModelConfig(task=ArithmeticConfig(digits=1), hidden_size=64, num_hidden_layers=1, pretraining_steps=120,
                           pretraining_batch_size=32)  # fmt: skip
    monkeypatch.setattr(suite, "DemoConfig", lambda seed: DemoConfig(seed=seed, base=base))
    results = {"missing": {}, "entries": []}
    options = Options(tmp_path, size="tiny")
    said = suite.add_run(options, "gold", 0, results)
    assert said.startswith("m1@t2 less m2@t1 ")
    monkeypatch.setattr(suite, "run_introspect", lambda config: pytest.fail("made again"))
    suite.add_run(options, "gold", 0, results)
    first, again = results["entries"]
    assert first == again
    assert [each["prompts"] for each in first["collected"]] == [8, 8]
    drawn = introspect(results)
    assert drawn.count("| gold | 0 |") == 2
    assert drawn.count("| nothing yet | 0 |") == 1
