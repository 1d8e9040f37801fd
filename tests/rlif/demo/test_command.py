"""The demonstration goes from nothing to a figure, both runs from the same start, in seconds when it is tiny."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from rlif.demo.command import DEMO_REWARDS
from rlif.demo.command import run as run_demo
from rlif.demo.options import DemoConfig
from rlif.errors import UserError
from rlif.tasks.arithmetic import ArithmeticConfig
from rlif.tasks.options import BaseModelConfig

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


def read_rows(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_tiny_demo_leaves_data_two_runs_from_one_start_and_a_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output_dir = tmp_path / "demo"
    run_demo(replace(TINY, output_dir=output_dir))

    assert (output_dir / "figure.png").stat().st_size > 0
    assert len(read_rows(output_dir / "train.jsonl")) == 4
    assert len(read_rows(output_dir / "eval.jsonl")) == 4
    runs = [read_rows(output_dir / reward / "metrics.jsonl") for reward in DEMO_REWARDS]
    assert [row["step"] for row in runs[0]] == [row["step"] for row in runs[1]] == [0, 1, 2]
    assert runs[0][0] == runs[1][0]
    assert all((output_dir / reward / "model" / "model.safetensors").is_file() for reward in DEMO_REWARDS)

    printed = capsys.readouterr().out
    for expected in (*DEMO_REWARDS, "start", "best", "last", str(output_dir / "figure.png"), str(tmp_path / "cache")):
        assert expected in printed


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
