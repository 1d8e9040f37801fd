"""What a run writes is on disk line by line, and never over another run."""

import json
import math
from pathlib import Path

import pytest
import yaml

from rlif.errors import UserError
from rlif.files.lock import Lock
from rlif.training.checkpoint import checkpoints, remove_old_checkpoints
from rlif.training.guard import Reading
from rlif.training.options import TrainConfig
from rlif.training.run_dir import RunDir, best_reading, resolve_run_dir

CONFIG = TrainConfig(model="model", data="data.jsonl")


def make_run_dir(path: Path) -> RunDir:
    return RunDir(path, CONFIG, Lock(path))


def test_every_line_is_on_disk_as_soon_as_it_is_logged(tmp_path: Path) -> None:
    run = make_run_dir(tmp_path / "deep" / "run")
    for step in range(3):
        run.log_metrics({"step": step, "loss": 0.5})
        run.log_samples([{"step": step, "completion": "größer\n"}])
        lines = (run.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line)["step"] for line in lines] == list(range(step + 1))
        samples = (run.path / "samples.jsonl").read_text(encoding="utf-8").splitlines()
        assert json.loads(samples[-1]) == {"step": step, "completion": "größer\n"}


def test_numbers_that_json_cannot_hold_become_null(tmp_path: Path) -> None:
    run = make_run_dir(tmp_path / "run")
    run.log_metrics({"step": 1, "loss": math.nan, "reward": math.inf})
    assert json.loads((run.path / "metrics.jsonl").read_text()) == {"step": 1, "loss": None, "reward": None}


def test_the_configuration_is_written_with_the_versions_that_ran_it(tmp_path: Path) -> None:
    run = make_run_dir(tmp_path / "run")
    text = (run.path / "config.yaml").read_text()
    assert yaml.safe_load(text)["model"] == "model"
    assert "output_dir" not in yaml.safe_load(text)  # so that the file repeats the run in a directory of its own
    assert all(package in text.splitlines()[0] for package in ("rlif", "Python", "torch", "transformers"))


def test_the_default_directory_is_new_and_named_after_the_reward(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = resolve_run_dir(CONFIG)
    assert path.parent == Path("runs")
    assert path.name.startswith("self_certainty-")
    assert not path.exists()


def test_a_best_policy_that_is_damaged_is_named_and_one_that_was_removed_is_none(tmp_path: Path) -> None:
    run, reading = make_run_dir(tmp_path / "run"), Reading(3, 0.5, 0.01, None)
    run.save_best(lambda directory: None, reading)
    assert best_reading(run.path) == reading
    file = run.path / "best" / "guard.json"
    file.write_text(file.read_text().replace("0.5", "0.6"))
    with pytest.raises(
        UserError, match=r"^resume: .*best is damaged \(guard.json has changed .*; expected .* removed, so"
    ):
        best_reading(run.path)
    run.remove_model("best")
    assert best_reading(run.path) is None


def test_a_directory_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="output_dir: cannot make"):
        make_run_dir(tmp_path / "file" / "run")


def test_a_checkpoint_that_vanishes_while_old_ones_are_removed_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2, 3):
        (tmp_path / f"checkpoint-{step}").mkdir()
    rename = Path.rename

    def vanishing(self: Path, target: Path) -> Path:
        self.rmdir()  # as with the whole directory, by somebody else
        return rename(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", vanishing)
        remove_old_checkpoints(tmp_path, 1, 3)
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-3"]


def test_a_checkpoint_that_cannot_be_removed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (1, 2):
        (tmp_path / f"checkpoint-{step}").mkdir()

    def refused(self: Path, target: Path) -> Path:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(UserError, match=r"^save_total_limit: cannot remove .*checkpoint-1: Permission denied$"):
        remove_old_checkpoints(tmp_path, 1, 2)
