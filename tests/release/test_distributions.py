"""The wheel and the source distribution hold all that they should, and nothing else."""

from __future__ import annotations

import configparser
import email
import subprocess
import tarfile
import tomllib
import zipfile
from email.message import Message
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import rlif
import rlif_kernels
from environments import Distributions
from pages import ROOT

# What only a clone has a use for.
NOT_RELEASED = (".ci/", "findings/")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def files_of_the_tree() -> set[str]:
    """The files that git knows, or would know after `git add`."""
    if not (ROOT / ".git").exists():
        pytest.skip("no clone: git says what belongs to the tree")
    listed = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split("\0")
    return {name for name in names if name and (ROOT / name).exists()}


def metadata_of(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [each for each in archive.namelist() if each.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(archive.read(name))


def test_the_wheel_holds_both_packages_whole_with_the_c_sources_and_no_other_file(distributions: Distributions) -> None:
    with zipfile.ZipFile(distributions.wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {
        name.removeprefix("kernels/")
        for name in files_of_the_tree()
        if name.startswith(("kernels/rlif_kernels/", "rlif/"))
    }
    assert held == expected
    assert "rlif_kernels/backends/c/kernels.c" in held
    assert distributions.wheel.name.endswith("-py3-none-any.whl")  # C is compiled where it runs


def test_the_source_distribution_holds_the_tree_with_its_tests(distributions: Distributions) -> None:
    with tarfile.open(distributions.sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()} - {"PKG-INFO"}
    assert held == {name for name in files_of_the_tree() if not name.startswith(NOT_RELEASED)}


def test_the_metadata_say_what_pip_and_pypi_ask(distributions: Distributions) -> None:
    metadata = metadata_of(distributions.wheel)
    assert metadata["Name"] == "rlif"
    assert metadata["Version"] == rlif_kernels.__version__
    assert metadata["Requires-Python"] == PROJECT["requires-python"] == ">=3.11"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload(decode=True).decode().strip() == (ROOT / "README.md").read_text().strip()  # type: ignore[union-attr]
    assert set(metadata.get_all("Provides-Extra") or ()) == PROJECT["optional-dependencies"].keys()
    needs = [Requirement(each) for each in metadata.get_all("Requires-Dist") or ()]
    base = {each.name: str(each.marker) for each in needs if "extra ==" not in str(each.marker)}
    assert base == {"torch": "None", "triton": 'platform_system == "Linux"'}


def test_the_command_that_the_wheel_installs_is_there(distributions: Distributions) -> None:
    with zipfile.ZipFile(distributions.wheel) as archive:
        (name,) = [each for each in archive.namelist() if each.endswith(".dist-info/entry_points.txt")]
        points = configparser.ConfigParser()
        points.read_string(archive.read(name).decode())
    assert dict(points["console_scripts"]) == {"rlif": "rlif.cli:program"}


def test_both_packages_say_their_version() -> None:
    assert rlif.__version__ == rlif_kernels.__version__
