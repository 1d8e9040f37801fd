"""The built-in models in seconds, for the lab and for what is made of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from rlif.lab.options import LabConfig
from rlif.tasks.arithmetic import ArithmeticConfig
from rlif.tasks.options import BaseModelConfig, InstructModelConfig

if TYPE_CHECKING:
    import pytest

TASK = ArithmeticConfig(digits=2)
BASE = BaseModelConfig(task=TASK, hidden_size=64, num_hidden_layers=1, pretraining_steps=40, pretraining_batch_size=16)
INSTRUCT = InstructModelConfig(base=BASE, task=TASK, steps=5)


def use_tiny_lab(suite: ModuleType, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a suite of the benchmarks train the lab's trials from these models, and keep its runs in a directory."""
    monkeypatch.setenv("RLIF_CACHE_DIR", str(directory / "cache"))
    config = LabConfig(base=BASE, instruct=INSTRUCT)
    monkeypatch.setattr(suite, "LabConfig", lambda: dataclasses.replace(config))
    monkeypatch.setattr(suite, "RUNS", directory / "runs")
