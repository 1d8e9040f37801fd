"""What is sampled from a model of any kind comes from what scores it; kinds of which that cannot be are refused."""

from __future__ import annotations

import pytest

from benchmarks.steps.architectures import ARCHITECTURES, check

# With a cache, sliding windows shorter than the texts, softcaps, experts, dropout: one each, and two that are refused.
QUICK = ("Llama, dropout", "Gemma 2", "Gemma 3", "Mixtral", "GPT-2", "Mamba", "RecurrentGemma")
REFUSED = {"Mamba", "RecurrentGemma"}
# Float32 through two layers, to logits of order 10, divided by a temperature of 0.7.
TOLERANCE = 1e-4


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in ARCHITECTURES]
)
def test_sampled_and_scored_are_those_of_float64(name: str) -> None:
    found = check(name)
    if name in REFUSED:
        assert found["refused"]
        assert "\n" not in found["refused"]
        return
    assert found["refused"] is None
    assert found["tokens"] >= 24
    assert found["sampled"] < TOLERANCE
    assert found["scored"] < TOLERANCE
