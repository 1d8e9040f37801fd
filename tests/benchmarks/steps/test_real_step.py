"""The suite of a given model's training step runs through on something small."""

import pytest

from benchmarks.report.tables import SUITE_TABLES
from benchmarks.runner import Options, run_suite
from benchmarks.steps import real_step
from benchmarks.steps.training_step import RLIF, SEPARATE
from benchmarks.steps.workload import SIZES, save_model


@pytest.mark.slow
def test_a_given_model_is_trained_with_and_without_shared_prompts(tmp_path):
    save_model(SIZES["tiny"], tmp_path / "model")
    options = Options(tmp_path, size="tiny", peers=frozenset(), repeats=1, model=tmp_path / "model")
    results = run_suite("real-step", options, real_step.steps(options))
    assert results["missing"] == {}
    shared, separate = (results["implementations"][name] for name in (RLIF, SEPARATE))
    # The same draws of the same prompts: sharing them changes nothing but the time.
    assert shared["tokens"] == separate["tokens"] > 0
    assert "| rlif --no-share-prompts |" in SUITE_TABLES["real-step"](results)


def test_eight_completions_at_a_time_share_one_prompt():
    work = real_step.SHAPES["full"]
    assert work.tokens_per_forward(share_prompts=True) == 160 + 8 * 64
    assert work.tokens_per_forward(share_prompts=False) == 8 * (160 + 64)
