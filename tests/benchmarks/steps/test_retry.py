"""The suite `retry` tries again in every way, and its table shows it."""

import re

import pytest

from benchmarks.report.retry import retry
from benchmarks.runner import Options
from benchmarks.steps import retry as suite
from rlif.demo.options import DemoConfig
from rlif.tasks.arithmetic import ArithmeticConfig
from rlif.tasks.options import BaseModelConfig


@pytest.mark.slow
def test_every_way_of_trying_again_is_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("RLIF_CACHE_DIR", str(tmp_path))
    base = BaseModelConfig(task=ArithmeticConfig(digits=1), hidden_size=64, num_hidden_layers=1, pretraining_steps=120,
                           pretraining_batch_size=32)  # fmt: skip
    monkeypatch.setattr(suite, "DemoConfig", lambda seed: DemoConfig(seed=seed, base=base))
    results = {"missing": {}, "entries": []}
    said = suite.add_seed(Options(tmp_path, size="tiny"), 0, results)
    assert re.fullmatch(r"precision .* against first attempts|no attempt was accepted", said)
    assert len(results["entries"]) == 1 + len(suite.VARIANTS)
    assert retry(results).count("| gold |") == 2
