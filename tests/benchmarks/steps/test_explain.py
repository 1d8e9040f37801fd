"""The suite `explain` trains, explains every checkpoint, and its table and chart show it."""

import pytest

from benchmarks.report.explain import explain, explain_chart
from benchmarks.runner import Options
from benchmarks.steps import explain as suite
from rlif.tasks.arithmetic import ArithmeticConfig
from rlif.tasks.options import BaseModelConfig


@pytest.mark.slow
def test_every_checkpoint_is_explained(tmp_path, monkeypatch):
    monkeypatch.setenv("RLIF_CACHE_DIR", str(tmp_path))
    base = BaseModelConfig(task=ArithmeticConfig(digits=1), hidden_size=64, num_hidden_layers=1, pretraining_steps=60,
                           pretraining_batch_size=16)  # fmt: skip
    monkeypatch.setattr(suite, "DemoConfig", lambda seed: suite_config(seed, base))
    results = {"missing": {}, "entries": []}
    suite.add_run(Options(tmp_path, size="tiny"), "self_certainty", 0, results)
    (run,) = results["entries"]
    assert [found["step"] for found in run["steps"]] == [1, 2]
    assert {"self_certainty", "length"} <= run["steps"][0]["scores"].keys()
    text = explain(results)
    assert "| `self_certainty` | 0 | 1 | `" in text
    assert explain_chart(results) is not None


def suite_config(seed, base):
    from rlif.demo.options import DemoConfig

    return DemoConfig(seed=seed, base=base)
