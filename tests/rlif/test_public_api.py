"""`import rlif` offers what the package is for, and costs nothing before it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import rlif

LOADED = "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'triton')))"


@pytest.mark.parametrize("name", rlif.__all__)
def test_every_public_name_is_there_once_and_has_its_line_in_the_docstring(name: str) -> None:
    value = getattr(rlif, name)
    assert vars(rlif)[name] is value
    assert name in dir(rlif)
    assert rlif.__doc__ is not None
    assert any(line.split()[:1] == [name] for line in rlif.__doc__.splitlines())
    if hasattr(value, "__name__"):
        assert value.__name__ == name


def test_another_name_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="module 'rlif' has no attribute 'tran'"):
        rlif.tran  # noqa: B018


def test_to_import_the_package_or_its_options_loads_no_torch() -> None:
    for statement in ("import rlif", "from rlif import TrainConfig, UserError"):
        assert subprocess.run([sys.executable, "-c", f"import sys; {statement}; {LOADED}"], check=False).returncode == 0
