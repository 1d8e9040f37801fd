"""Options of `test_cpu_ops.py`."""

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--base", type=Path, help="folder of another commit's rlif_kernels, to compare with")
    parser.addoption("--write-gate", action="store_true", help="write gate.json instead of comparing with it")
