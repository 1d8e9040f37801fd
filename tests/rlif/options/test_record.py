"""A directory says what made it, and goes on only with the same options."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from rlif.errors import UserError
from rlif.files.lock import Lock
from rlif.options.groups import OutputOptions, ResumeOptions, SeedOptions
from rlif.options.record import check_resume, check_unchanged, make_directory, output_directory, read_record


@dataclass(kw_only=True)
class Options(OutputOptions, ResumeOptions, SeedOptions):
    """A command."""

    workers: int = 1
    """May change."""


@pytest.fixture
def made(tmp_path: Path) -> Options:
    """Options whose directory has been made with them."""
    config = Options(output_dir=tmp_path / "out", seed=3)
    with Lock(output_directory(config, "try", what="run")) as lock:
        make_directory(lock.directory, config, lock)
    return config


def unchanged(config: Options, **options: Any) -> dict[str, Any]:
    assert config.output_dir is not None
    return check_unchanged(config.output_dir, config, changeable={"workers"}, what="run", prog="rlif try", **options)


def test_the_record_has_the_options_but_for_the_directory_under_the_versions(made: Options) -> None:
    assert made.output_dir is not None
    header, *lines = (made.output_dir / "config.yaml").read_text().splitlines()
    assert header.startswith("# rlif ")
    assert lines == ["seed: 3", "workers: 1"]
    assert read_record(made.output_dir, Options, "rlif try") == {"seed": 3, "workers": 1}


def test_what_may_change_may_change_and_nothing_else(made: Options) -> None:
    assert unchanged(replace(made, resume=True, workers=2)) == {"seed": 3, "workers": 1}
    with pytest.raises(UserError, match=r"^resume: seed is 4, but the run had 3; expected no change$"):
        unchanged(replace(made, resume=True, seed=4))


def test_an_existing_directory_is_refused_unless_something_resumes_in_it(made: Options, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^output_dir: .*out exists, expected a new directory, or --resume to go on"):
        output_directory(made, "try", what="run")
    with pytest.raises(UserError, match=r"^output_dir: .*out exists, expected a new directory$"):
        output_directory(made, "try")
    resumed = replace(made, resume=True)
    assert output_directory(resumed, "try", what="run") == made.output_dir
    with Lock(tmp_path / "out") as lock:
        make_directory(lock.directory, replace(resumed, workers=5), lock)
    assert unchanged(resumed)["workers"] == 1  # the record stays that of the beginning


def test_what_cannot_be_resumed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^output_dir: got none, expected the directory of the run to resume: --output-dir"
    ):
        check_resume(Options(resume=True), "run")
    config = Options(resume=True, output_dir=tmp_path / "out")
    with pytest.raises(UserError, match=r"^output_dir: .*out does not exist, expected the directory of the run"):
        output_directory(config, "try", what="run")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".config.yaml").write_text("half writ")
    assert unchanged(config) == {}  # stopped before anything was written
    (tmp_path / "out" / "other.txt").write_text("")
    with pytest.raises(UserError, match=r"^output_dir: .*out has no config\.yaml, so that it holds no run to resume$"):
        unchanged(config)


def test_a_record_of_the_last_release_is_found_under_its_old_name(tmp_path: Path) -> None:
    config = Options(resume=True, output_dir=tmp_path)
    (tmp_path / "settings.json").write_text(json.dumps({"seed": 3, "resume": False, "output_dir": None}, indent=1))
    with pytest.raises(UserError, match=r"^resume: seed is 0, but the run had 3"):
        unchanged(config, old_name="settings.json")
    assert unchanged(replace(config, seed=3), old_name="settings.json")["seed"] == 3


def test_a_damaged_record_is_one_error(made: Options) -> None:
    assert made.output_dir is not None
    (made.output_dir / "config.yaml").write_text("seed: [")
    with pytest.raises(UserError, match=r"^output_dir: .*config\.yaml is not YAML"):
        unchanged(replace(made, resume=True))
