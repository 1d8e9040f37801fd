"""The suite of shared prompts runs through on something small, and its table shows it."""

import pytest

from benchmarks.report.tables import SUITE_TABLES
from benchmarks.runner import Options, run_suite
from benchmarks.steps import shared_prompts


@pytest.mark.slow
def test_both_ways_are_timed_and_tokens_and_memory_compared(tmp_path):
    options = Options(tmp_path, size="tiny", peers=frozenset(), repeats=1)
    results = run_suite("shared-prompts", options, shared_prompts.steps(options))
    assert results["missing"] == {}
    (entry,) = results["entries"]
    # Two groups of two: 4 + 2 x (3 - 1) tokens each, and 2 x (4 + 3 - 1) where each has its own prompt.
    assert entry["tokens"] == {"shared": 16, "separate": 24}
    assert all(min(seconds) > 0 for seconds in entry["seconds"].values())
    assert min(entry["peak_bytes"].values()) > 0
    assert "| 0.667 |" in SUITE_TABLES["shared-prompts"](results)
