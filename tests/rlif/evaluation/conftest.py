"""An evaluation of a tiny model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rlif.evaluation.options import EvalConfig

WriteJsonl = Callable[..., Path]


MakeEval = Callable[..., EvalConfig]


@pytest.fixture
def make_eval(model_dir: Path, write_jsonl: WriteJsonl, tmp_path: Path) -> MakeEval:
    """An evaluation of a few completions; keyword arguments change fields."""
    rows = [{"prompt": f"{a}+{b}=", "answer": a + b} for a in (1, 20) for b in (3, 4, 50)]

    def make(**changes: object) -> EvalConfig:
        settings: dict[str, object] = {
            "model": str(model_dir),
            "data": str(write_jsonl(*rows, name="prompts.jsonl")),
            "output_dir": tmp_path / "out",
            "num_generations": 4,
            "max_completion_length": 8,
            "device": "cpu",
        }
        return EvalConfig(**(settings | changes))  # type: ignore[arg-type]

    return make
