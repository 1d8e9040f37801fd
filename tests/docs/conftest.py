"""Fixtures of the pages' tests: one thread, and a tiny model on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tiny_models import make_model, make_tokenizer


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads cost such small models more than they give."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with its tokenizer, as transformers saves them."""
    directory = tmp_path_factory.mktemp("models") / "tiny"
    make_model().save_pretrained(directory)
    make_tokenizer().save_pretrained(directory)
    return directory
