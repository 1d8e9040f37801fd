"""Fixtures of the training loop's tests: a tiny model on disk, files, and runs of a few steps."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from drawn_figures import kept_figures
from fault_server import ENVIRONMENT, Server
from rlif.models.language_model import LanguageModel, load_language_model
from rlif.tasks.arithmetic import ArithmeticConfig
from rlif.tasks.options import BaseModelConfig
from rlif.tasks.pretraining import pretrain
from rlif.training.options import TrainConfig
from tiny_models import one_torch_thread, save_model


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with one_torch_thread():
        yield


@pytest.fixture(scope="session", params=["qwen3"])
def model_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with its tokenizer, as transformers saves them."""
    return save_model(tmp_path_factory.mktemp("models") / request.param, request.param)


@pytest.fixture(scope="session")
def answering_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model of the built-in task, with numbers of one digit: it states answers, some of them right."""
    config = BaseModelConfig(
        task=ArithmeticConfig(digits=1),
        hidden_size=64,
        num_hidden_layers=1,
        pretraining_steps=120,
        pretraining_batch_size=32,
    )
    with one_torch_thread():
        model, tokenizer = pretrain(config, None)
    place = tmp_path_factory.mktemp("answering")
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    """Starts commands that need not import what they need."""
    for name, value in ENVIRONMENT.items():  # which a server gives to this process, too
        monkeypatch.setenv(name, value)
    return Server({})


@pytest.fixture
def drawn() -> Iterator[list[Figure]]:
    """The figures that are saved, still as objects."""
    with kept_figures() as drawn:
        yield drawn


@pytest.fixture
def language_model(model_dir: Path) -> LanguageModel:
    return load_language_model(str(model_dir), device="cpu", dtype="float32")


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., Path]:
    """Write rows as a JSONL file and return its path."""

    def write(*rows: object, name: str = "data.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


@pytest.fixture
def make_config(model_dir: Path, write_jsonl: Callable[..., Path], tmp_path: Path) -> Callable[..., TrainConfig]:
    """A run of a few small steps on sums of two digits; keyword arguments change fields."""
    rows = [{"prompt": f"{a}+{b}=", "answer": a + b} for a in (1, 20) for b in (3, 4, 50)]

    def make(**changes: object) -> TrainConfig:
        settings: dict[str, object] = {
            "model": str(model_dir),
            "data": write_jsonl(*rows),
            "output_dir": tmp_path / "run",
            "max_steps": 2,
            "prompts_per_step": 3,
            "num_generations": 4,
            "max_completion_length": 6,
            "eval_steps": 1,
            "learning_rate": 1e-3,
            "device": "cpu",
            "guard": "off",  # it has tests of its own, and the others their six prompts for themselves
        }
        return TrainConfig(**(settings | changes))  # type: ignore[arg-type]

    return make
