"""The DPO step's benchmark runs through on something small."""

import math

import pytest

from benchmarks.memory import in_fresh_process
from benchmarks.steps.self_feedback import measure_dpo, summarise_pairs
from benchmarks.steps.workload import Workload


@pytest.mark.slow
def test_the_dpo_benchmark_trains_every_pair_and_begins_at_the_loss_of_no_preference():
    work = Workload(
        vocab_size=50, hidden_size=16, num_layers=1, prompts=3, prompt_length=4, max_completion_length=5, steps=3,
        beta=0.2,
    )  # fmt: skip
    result = in_fresh_process(measure_dpo, "rlif", work)
    assert len(result["steps"]) == 3
    assert result["first_loss"] == pytest.approx(math.log(2), abs=1e-5)  # the model is its own reference
    turns = [result, result | {"steps": [9.0, 1.0, 3.0], "peak_bytes": 2 * result["peak_bytes"]}]
    summed = summarise_pairs(3, [turns[1], turns[1]])
    assert summed["pairs_per_second"] == pytest.approx((3 / 1 + 3 / 3) / 2)  # without the steps that warmed up
    assert summarise_pairs(16, turns)["peak_bytes"] == 2 * result["peak_bytes"]
