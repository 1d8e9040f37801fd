"""What the tests inside the other trainers share. Each of these may be missing, and its tests are skipped then."""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch

from tiny_models import one_torch_thread

StandIn = Callable[..., None]


@pytest.fixture(autouse=True)
def small_and_offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """On one thread, without downloads, and uncompiled: a test is done sooner."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with one_torch_thread(), torch.compiler.set_stance("force_eager"):
        yield


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Makes modules of packages that need a GPU to install, and that are imported and not called here."""

    def make(name: str, **members: Any) -> None:
        module = ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)

    return make


@pytest.fixture
def logits_and_ids() -> tuple[torch.Tensor, torch.Tensor]:
    """(2, 6, 50) logits and (2, 6) ids."""
    generator = torch.Generator().manual_seed(0)
    return 3 * torch.randn(2, 6, 50, generator=generator), torch.randint(50, (2, 6), generator=generator)
