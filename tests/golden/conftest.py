"""The tiny model of the training loop's tests, recorded runs of which must not change."""

from __future__ import annotations

from pathlib import Path

import pytest

from tiny_models import make_model, make_tokenizer


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "qwen3"
    make_model("qwen3").save_pretrained(directory)
    make_tokenizer().save_pretrained(directory)
    return directory
