"""What the tests inside TRL share. TRL may be missing: only the tests' own modules import it, or skip."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tiny_models import one_torch_thread

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is downloaded, nothing is reported; and other tests of this process see nothing of it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with one_torch_thread():
        yield


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with its tokenizer, as transformers saves them."""
    import tiny_trl

    return tiny_trl.save_model(tmp_path_factory.mktemp("trl") / "model")
