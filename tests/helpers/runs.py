"""Training runs for tests: silent, and on the CPU."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from rlif.models.language_model import LanguageModel
from rlif.rollouts.encode import EncodedPrompt
from rlif.scoring.scorer import Scorer
from rlif.scoring.start_model import StartModel
from rlif.training import loop
from rlif.training.distributed import make_accelerator
from rlif.training.learner import Models
from rlif.training.loop import TrainResult
from rlif.training.options import TrainConfig
from rlif.training.progress import SilentProgress
from rlif.training.setup import validation_options
from rlif.training.validation import Validation, evaluate
from tiny_models import TIMES

# The type of the fixture `make_config`, whose keyword arguments change fields of a small run.
MakeConfig = Callable[..., TrainConfig]


def train(config: TrainConfig) -> TrainResult:
    """Train without a word on the screen."""
    return loop.train(config, progress=SilentProgress())


def evaluated(
    language_model: LanguageModel,
    start_model: StartModel,
    prompts: Sequence[EncodedPrompt],
    config: TrainConfig,
    consensus: Sequence[str | None] | None = None,
) -> Validation:
    """Evaluate a policy as a run of that configuration does."""
    models = Models(language_model, Scorer(language_model.model, None), start_model)
    accelerator = make_accelerator("cpu", (), Path("unused"))
    return evaluate(models, accelerator, validation_options(config), prompts, consensus)


def weights(directory: Path) -> dict[str, torch.Tensor]:
    (file,) = directory.glob("*model.safetensors")
    return load_file(file)


def assert_same_runs(first: Path, second: Path) -> None:
    """Both runs ended with the same bits, and logged the same."""
    ours, theirs = weights(first / "model"), weights(second / "model")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    logs = []
    for run in (first, second):
        rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        logs.append([{name: value for name, value in row.items() if name not in TIMES} for row in rows])
    assert logs[0] == logs[1]
    assert (first / "samples.jsonl").read_text() == (second / "samples.jsonl").read_text()
