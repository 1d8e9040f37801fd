"""Fixtures of the kernel tests."""

import pytest


@pytest.fixture(params=["torch", "triton"])
def backend(request: pytest.FixtureRequest) -> str:
    return request.param
