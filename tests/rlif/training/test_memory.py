"""What a run keeps in memory, and when it no longer does."""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from rlif.models import freed_memory
from rlif.models.freed_memory import give_back_freed_memory
from rlif.models.language_model import LanguageModel
from rlif.rewards import REWARDS
from rlif.training import loop
from runs import MakeConfig, train


def test_no_gradient_is_kept_while_completions_are_sampled(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []
    sample = loop.sample

    def watched(language_model: LanguageModel, *args: Any, **options: Any) -> Any:
        kept.append(sum(each.grad is not None for each in language_model.model.parameters()))
        return sample(language_model, *args, **options)

    monkeypatch.setattr(loop, "sample", watched)
    result = train(make_config(max_steps=3))
    assert kept == [0, 0, 0]
    assert all(row["grad_norm"] > 0 for row in result.rows)


@pytest.mark.parametrize("reward", ["self_certainty", "verifiable"])
def test_what_a_part_of_a_step_frees_is_given_back_before_the_next(
    reward: str, make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(freed_memory, "_malloc_trim", lambda: calls.append)
    monkeypatch.setitem(REWARDS, "verifiable", lambda prompts: [1.0, 0.0] * (len(prompts) // 2))
    train(make_config(reward=reward, max_steps=1, max_tokens_per_forward=40, share_prompts=False))
    assert len(calls) >= 2  # three groups, in a part or more of each
    assert set(calls) == {0}
    calls.clear()
    train(make_config(reward=reward, max_steps=1, output_dir=tmp_path / "whole"))
    assert calls == []  # one part


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_pages_between_others_in_use_are_given_back() -> None:
    kept, freed = [], []
    for _ in range(800):  # 100 MB, half of it freed, in pieces that are too small to be mapped one by one
        freed.append(torch.ones(2**14))
        kept.append(torch.ones(2**14))
    held = resident()
    freed.clear()
    give_back_freed_memory(torch.device("cpu"))
    assert held - resident() > 0.8 * 800 * 4 * 2**14
    assert len(kept) == 800


def resident() -> int:
    """The bytes of this process that are in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
