"""How much is sampled at a time follows from the model's size on a CPU, and from the caller's bound elsewhere."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rlif.rollouts.batch_size import CPU_WORK, prompts_at_a_time, tokens_at_a_time
from rlif.rollouts.encode import EncodedPrompt

PROMPTS = [EncodedPrompt("", None, [0] * length) for length in (50, 100)]


def model_of(parameters: int, device: str) -> Any:
    return SimpleNamespace(device=torch.device(device), model=SimpleNamespace(num_parameters=lambda: parameters))


@pytest.mark.parametrize(
    ("parameters", "device", "prompts"),
    [
        (1_000_000, "cpu", 32),
        (135_000_000, "cpu", CPU_WORK // 135_000_000 // (8 * (100 + 256))),
        (70_000_000_000, "cpu", 1),  # never less than one prompt, with all of its completions
        (70_000_000_000, "cuda", 32),
    ],
)
def test_a_large_model_samples_fewer_prompts_at_a_time_on_a_cpu(parameters: int, device: str, prompts: int) -> None:
    options = {"num_generations": 8, "max_completion_length": 256, "at_most": 32}
    assert prompts_at_a_time(model_of(parameters, device), PROMPTS, **options) == prompts


def test_at_135m_parameters_a_cpu_gets_about_what_the_help_says() -> None:
    assert 8000 <= tokens_at_a_time(model_of(135_000_000, "cpu"), 16384) < 8200
