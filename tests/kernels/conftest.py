"""Fixtures of the kernel tests."""

import pytest

from comparison import DEVICE
from rlif_kernels.backends import c as cpu_backend


@pytest.fixture(params=["torch", "cpu", "triton"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "cpu" and cpu_backend.library() is None:
        pytest.skip("no C compiler")
    if request.param == "cpu" and DEVICE != "cpu":
        pytest.skip("the tensors of these tests are on a GPU")
    return request.param
