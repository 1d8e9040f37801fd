"""Where the C kernels cannot be built, the torch backend serves without a word."""

import pytest
import torch

from rlif_kernels import token_stats
from rlif_kernels.backends.c.build import library


@pytest.fixture(autouse=True)
def _decides_anew():
    """`library` decides once per process: here once per environment."""
    library.cache_clear()
    yield
    library.cache_clear()


@pytest.mark.parametrize(
    "environment",
    [{"RLIF_CPU_KERNELS": "0"}, {"PATH": "/nonexistent"}, {"CC": "false"}, {"RLIF_CACHE_DIR": "/dev/null/none"}],
    ids=["switched off", "no compiler", "a compiler that fails", "no cache directory"],
)
def test_without_the_c_kernels_the_torch_backend_serves_silently(environment, monkeypatch, capfd):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert library() is None
    assert float(token_stats(torch.zeros(1, 8), torch.tensor([3])).entropy) == 2.079441547393799
    assert capfd.readouterr() == ("", "")


def test_the_kernels_are_compiled_once_into_the_cache_directory(tmp_path, monkeypatch):
    if library() is None:
        pytest.skip("no C compiler")
    cache = tmp_path / "cache"
    monkeypatch.setenv("RLIF_CACHE_DIR", str(cache))
    library.cache_clear()
    assert library() is not None
    (built,) = cache.iterdir()  # nothing unfinished beside it
    made = built.stat().st_mtime_ns
    library.cache_clear()
    assert library() is not None
    assert built.stat().st_mtime_ns == made
