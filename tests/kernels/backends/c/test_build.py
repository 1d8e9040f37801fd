"""Where the C kernels cannot be built, the torch backend serves without a word."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import torch
from rlif_kernels import token_stats
from rlif_kernels.backends import c as cpu_backend
print(cpu_backend.library() is not None, float(token_stats(torch.zeros(1, 8), torch.tensor([3])).entropy))
"""


def run(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM], env=os.environ | environment, capture_output=True, text=True, check=True
    )


@pytest.mark.parametrize(
    "environment",
    [{"RLIF_CPU_KERNELS": "0"}, {"PATH": "/nonexistent"}, {"CC": "false"}, {"RLIF_CACHE_DIR": "/dev/null/none"}],
    ids=["switched off", "no compiler", "a compiler that fails", "no cache directory"],
)
def test_without_the_c_kernels_the_torch_backend_serves_silently(environment):
    result = run(**environment)
    assert result.stdout == "False 2.079441547393799\n"
    assert result.stderr == ""


def test_the_kernels_are_compiled_once_into_the_cache_directory(tmp_path):
    if "False" in run().stdout:
        pytest.skip("no C compiler")
    cache = tmp_path / "cache"
    assert run(RLIF_CACHE_DIR=str(cache)).stdout.startswith("True")
    (built,) = cache.iterdir()  # nothing unfinished beside it
    made = built.stat().st_mtime_ns
    assert run(RLIF_CACHE_DIR=str(cache)).stdout.startswith("True")
    assert built.stat().st_mtime_ns == made
