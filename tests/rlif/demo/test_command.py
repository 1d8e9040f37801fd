"""The demonstration goes from nothing to a figure, both runs from the same start, in seconds when it is tiny."""

from __future__ import annotations

import io
import json
import math
import shutil
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest

from rlif.demo.command import DEMO_REWARDS
from rlif.demo.command import run as run_demo
from rlif.demo.options import DemoConfig
from rlif.errors import UserError
from rlif.tasks.arithmetic import ArithmeticConfig
from rlif.tasks.options import BaseModelConfig
from rlif.training.loop import TrainResult, train
from rlif.training.options import TrainConfig
from rlif.training.outcome import run_once
from tiny_models import one_torch_thread

TINY = DemoConfig(
    max_steps=2,
    prompts_per_step=2,
    eval_prompts=4,
    base=BaseModelConfig(
        task=ArithmeticConfig(digits=1),
        hidden_size=64,
        num_hidden_layers=1,
        pretraining_steps=3,
        pretraining_batch_size=8,
    ),
)


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLIF_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the cache of a finished demonstration, what it left, and what it printed."""
    directory = tmp_path_factory.mktemp("made")
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, one_torch_thread(), redirect_stdout(printed):
        patch.setenv("RLIF_CACHE_DIR", str(directory / "cache"))
        run_demo(replace(TINY, output_dir=directory / "demo"))
    (directory / "demo").rename(directory / "as it was")
    (directory / "printed").write_text(printed.getvalue())
    return directory


@pytest.fixture
def finished(made: Path, monkeypatch: pytest.MonkeyPatch) -> DemoConfig:
    """Of that demonstration, which is there as it was made: its runs know where they are."""
    monkeypatch.setenv("RLIF_CACHE_DIR", str(made / "cache"))
    shutil.rmtree(made / "demo", ignore_errors=True)
    shutil.copytree(made / "as it was", made / "demo")
    return replace(TINY, output_dir=made / "demo")


def read_rows(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_tiny_demo_leaves_data_two_runs_from_one_start_and_a_figure(made: Path, finished: DemoConfig) -> None:
    output_dir = finished.output_dir
    assert output_dir is not None
    assert (output_dir / "figure.png").stat().st_size > 0
    assert len(read_rows(output_dir / "train.jsonl")) == 4
    assert len(read_rows(output_dir / "eval.jsonl")) == 4
    runs = [read_rows(output_dir / reward / "metrics.jsonl") for reward in DEMO_REWARDS]
    assert [row["step"] for row in runs[0]] == [row["step"] for row in runs[1]] == [0, 1, 2]
    assert runs[0][0] == runs[1][0]
    # The guard's choice is judged by gold answers, and so has not seen them.
    assert not any("eval/gold_prompts" in row for rows in runs for row in rows)
    assert all((output_dir / reward / "model" / "model.safetensors").is_file() for reward in DEMO_REWARDS)

    printed = (made / "printed").read_text()
    for expected in (*DEMO_REWARDS, "start", "best", "last", str(output_dir / "figure.png"), str(made / "cache")):
        assert expected in printed


def table_in(printed: str) -> str:
    return printed.partition("Held-out accuracy")[2].partition("Figure:")[0]


def test_a_demo_that_was_interrupted_goes_on_and_comes_to_the_same(
    made: Path,
    finished: DemoConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    resumed = tmp_path / "resumed"
    table = table_in((made / "printed").read_text())
    assert table

    def interrupted(config: TrainConfig) -> TrainResult:
        if config.reward == ("verifiable",):
            raise KeyboardInterrupt("stopped")
        return run_once(config)

    with monkeypatch.context() as patched:
        patched.setattr("rlif.demo.command.run_once", interrupted)
        with pytest.raises(KeyboardInterrupt, match=r"is not finished; the same command with .* --resume goes on"):
            run_demo(replace(TINY, output_dir=resumed))
    with monkeypatch.context() as patched:

        def trained(config: TrainConfig, **options: bool) -> TrainResult:
            assert config.reward == ("verifiable",), "a finished run is trained again"
            return train(config, **options)

        patched.setattr("rlif.training.outcome.train", trained)
        capsys.readouterr()
        run_demo(replace(TINY, output_dir=resumed, resume=True))
    assert table_in(capsys.readouterr().out) == table
    assert (resumed / "figure.png").read_bytes() == (made / "demo" / "figure.png").read_bytes()


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        ("metrics.jsonl", r"metrics.jsonl is damaged \(it has changed since it was written, or is gone\); expected"),
        ("samples.jsonl", r"samples.jsonl is damaged \(it has changed since it was written, or is gone\); expected"),
        ("config.yaml", r"config.yaml is damaged \(it has changed since it was written, or is gone\); expected"),
        (
            "model/model.safetensors",
            r"model is damaged \(model.safetensors has changed since it was written\)",
        ),
        ("outcome.json", r"outcome.json: has changed since it was written; expected it as it was"),
    ],
)
def test_a_finished_run_that_has_changed_is_not_taken_for_what_it_was(
    damaged: str, message: str, made: Path, finished: DemoConfig
) -> None:
    path = made / "demo" / "self_certainty" / damaged
    path.write_bytes(path.read_bytes().replace(b"0", b"1", 1))
    with pytest.raises(UserError, match=message):
        run_demo(replace(finished, resume=True))


def test_a_run_that_was_killed_before_its_outcome_was_written_is_run_again(made: Path, finished: DemoConfig) -> None:
    run = made / "demo" / "verifiable"
    before = read_rows(run / "metrics.jsonl")
    (run / "outcome.json").unlink()
    run_demo(replace(finished, resume=True))
    after = read_rows(run / "metrics.jsonl")
    assert [(row["step"], row.get("loss"), row.get("eval/accuracy")) for row in after] == [
        (row["step"], row.get("loss"), row.get("eval/accuracy")) for row in before
    ]
    assert (run / "outcome.json").is_file()


def test_another_demo_cannot_be_resumed(finished: DemoConfig) -> None:
    with pytest.raises(UserError, match=r"^resume: seed is 1, but the demonstration had 0; expected no change"):
        run_demo(replace(finished, resume=True, seed=1))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_steps", 0),
        ("prompts_per_step", 0),
        ("eval_prompts", 0),
        ("seed", -1),
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
    ],
)
def test_a_bad_value_is_refused_before_any_work(name: str, value: float, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^{name}: got {value}, expected"):
        run_demo(replace(TINY, output_dir=tmp_path / "demo", **{name: value}))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_an_output_directory_that_exists_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    with pytest.raises(UserError, match=r"^output_dir: .* exists, expected a new directory"):
        run_demo(replace(TINY, output_dir=tmp_path / "demo"))
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_a_bad_base_model_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^hidden_size: got 3, expected"):
        run_demo(replace(TINY, output_dir=tmp_path / "demo", base=replace(TINY.base, hidden_size=3)))
    assert list(tmp_path.iterdir()) == []


def test_an_output_directory_that_cannot_be_made_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^output_dir: cannot make "):
        run_demo(replace(TINY, output_dir=tmp_path / "file" / "demo"))
    assert not (tmp_path / "cache").exists()
