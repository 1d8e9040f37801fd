"""The commit is that of a checkout of ours, and of nothing else."""

import subprocess
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from rlif.files.versions import _commit, versions

GIT = ("git", "-c", "user.name=a", "-c", "user.email=a@example.invalid", "-c", "commit.gpgsign=false")


def test_a_checkout_names_its_commit_and_whether_it_was_changed(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        return subprocess.run([*GIT, *words], cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "--quiet", "--message", "first")
    git("tag", "v1")
    commit = git("rev-parse", "--short=12", "HEAD")
    assert _commit(tmp_path) == commit
    (tmp_path / "file").write_text("2")
    assert _commit(tmp_path) == f"{commit}-dirty"


def test_a_directory_that_is_no_checkout_has_no_commit(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    subprocess.run([*GIT, "init", "--quiet"], cwd=tmp_path, check=True)
    assert _commit(tmp_path / "sub") is None  # an installed package below somebody's repository
    assert _commit(tmp_path) is None  # which has no commit yet


def test_a_checkout_that_is_not_installed_has_no_version_and_works_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unknown(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr("rlif.files.versions.version", unknown)
    assert versions().startswith("rlif (not installed)")
    assert versions().endswith("torch (not installed), transformers (not installed)")
