"""What a run keeps in memory, and when it no longer does."""

from __future__ import annotations

from typing import Any

import pytest

from rlif.models.language_model import LanguageModel
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
