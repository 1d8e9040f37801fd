"""The training step's suite runs through on something small."""

import pytest

from benchmarks.runner import Options, run_suite
from benchmarks.steps import loop


@pytest.mark.slow
def test_a_training_step_counts_its_tokens_and_divides_its_time_into_phases(tmp_path):
    options = Options(tmp_path, size="tiny", peers=frozenset(), repeats=1)
    results = run_suite("loop", options, loop.steps(options))
    assert results["missing"] == {}
    (entry,) = results["implementations"].values()
    seconds = entry["seconds"]
    assert seconds["sampling"] + seconds["scoring and update"] == pytest.approx(seconds["step"])
    assert min(seconds.values()) > 0
    assert 4 <= entry["tokens"] <= 16  # 2 x 2 completions of 1 to 4 tokens
    assert entry["tokens_per_second"] == pytest.approx(entry["tokens"] / seconds["step"])
