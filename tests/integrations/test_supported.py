"""A release that an adapter was not tested with is refused by name and range."""

import importlib.metadata

import pytest
from packaging.version import Version

from rlif.integrations import supported


def test_a_release_within_the_range_is_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supported, "version", lambda package: "1.16.3")
    assert supported.require("trl") == Version("1.16.3")


@pytest.mark.parametrize(("package", "installed"), [("trl", "1.17.0"), ("trl", "1.15.0"), ("verl", "0.9.0")])
def test_another_release_is_refused_with_its_number_and_the_range(
    monkeypatch: pytest.MonkeyPatch, package: str, installed: str
) -> None:
    monkeypatch.setattr(supported, "version", lambda package: installed)
    with pytest.raises(ImportError, match=rf"supports {package} .*[<>]=?.*, and {package} {installed} is installed"):
        supported.require(package)


def test_a_missing_package_is_refused_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(package: str) -> str:
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(supported, "version", missing)
    with pytest.raises(ImportError, match=r"verl is not installed: pip install 'rlif\[verl\]'"):
        supported.require("verl")
