"""A small `rlif self-feedback`, for tests of the whole command."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlif.self_feedback.options import MeasureOptions, RankOptions, SampleOptions, SelfFeedbackConfig, TrainOptions

MakeConfig = Callable[..., SelfFeedbackConfig]


@pytest.fixture
def of_command(model_dir: Path, write_jsonl: Callable[..., Path], tmp_path: Path) -> MakeConfig:
    """Small sums for a random model, which has no answers and seldom an end: confidence is that of the completion."""
    rows = [{"prompt": f"{a}+{b}=", "answer": a + b} for a in (1, 20) for b in (3, 4, 50)]

    def make(**changes: Any) -> SelfFeedbackConfig:
        config = SelfFeedbackConfig(
            model=str(model_dir),
            data=str(write_jsonl(*rows)),
            eval_data=str(write_jsonl(*rows[:3], name="eval.jsonl")),
            output_dir=tmp_path / "out",
            device="cpu",
            sample=SampleOptions(num_generations=4, max_completion_length=5, answer_span="trace"),
            rank=RankOptions(confidence="inverse_perplexity", threshold=0.0, choose_unfinished=True),
            train=TrainOptions(num_train_epochs=1, learning_rate=1e-4, pairs_per_step=8),
            measure=MeasureOptions(eval_generations=2),
        )
        return replace(config, **changes)

    return make
