"""Where the tests run: on a GPU if there is one, else the Triton kernels run in Triton's interpreter."""

import gc
import getpass
import os
import tempfile
from pathlib import Path

import pytest
import torch

from preloaded import preload

# What tests import and what is collected stays: to look through it for garbage took a seventh of the time to the first.
gc.disable()

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is decorated, hence before any import of our kernels


if os.environ.get("TRITON_INTERPRET") == "1":
    from interpreter import prepare_interpreter

    prepare_interpreter()

preload()

# As for the benchmarks: the key of torch.compile's cache names no instruction set.
if level := os.environ.get("ATEN_CPU_CAPABILITY"):
    own = f"torchinductor_{getpass.getuser()}_{level}"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.join(tempfile.gettempdir(), own))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", action="store_true", help="write the records of tests/golden anew")
    faults = parser.getgroup("tests/faults")
    faults.addoption("--full", action="store_true", help="random hurts too, after those that are the same at every run")
    faults.addoption("--hurts", type=int, default=200, help="how many of them")
    faults.addoption("--seed", type=int, default=0, help="of theirs")
    faults.addoption("--output", type=Path, help="file that results are added to, for `python -m benchmarks report`")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """`-m gpu` selects what runs on a device: tests that need one, and there every test of the Triton backend.

    Where there is none that backend is interpreted: slow for what is marked so, and not at all for what is marked
    not_interpreted. Nor for what is marked slow in two parameters at once: each is tried with the fast values of the
    others, and a device and the other backends try all together.
    """
    left_out = []
    for item in items:
        callspec = getattr(item, "callspec", None)
        on_triton = callspec is not None and "triton" in callspec.params.values()
        if on_triton and not torch.cuda.is_available():
            unusual = sum(mark.name == "slow_interpreted" for mark in callspec.marks)
            if unusual > 1 or "not_interpreted" in item.keywords:
                left_out.append(item)
        if on_triton and not torch.cuda.is_available() and "slow_interpreted" in item.keywords:
            item.add_marker(pytest.mark.slow)
        if torch.cuda.is_available():
            if on_triton:
                item.add_marker(pytest.mark.gpu)
        elif item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA, ROCm or XPU device, and there is none"))
    if left_out:
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


def pytest_collection_finish() -> None:
    """Collect garbage from here on."""
    gc.enable()


@pytest.fixture(autouse=True, scope="module")
def _what_was_imported_stays() -> None:
    """Keep what was imported from being looked at by each garbage collection: half of a short run was that."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
