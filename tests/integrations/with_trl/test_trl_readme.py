"""The snippets for TRL, in README.md and docs/trl.md, do what they say, as they stand there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest

pytest.importorskip("trl", reason="trl is not installed: pip install 'rlif[trl]'")

from trl import GRPOConfig

import tiny_trl as tiny
from pages import snippet

# TRL's own precision, too: it trains under autocast.
SHORT = {name: value for name, value in tiny.SETTINGS.items() if name != "bf16"}


def test_the_readmes_lines(model_dir: Path, tmp_path: Path) -> None:
    code = snippet("README.md", "import RLIFTrainer as GRPOTrainer")
    assert code.count("# was: ") == 2
    assert code.count("GRPOConfig(beta=0.005)") == 1
    names: dict[str, Any] = {
        "model": str(model_dir),
        "dataset": tiny.dataset(),
        "short": SHORT | {"output_dir": tmp_path},
    }
    exec(code.replace("GRPOConfig(beta=0.005)", "GRPOConfig(beta=0.005, **short)"), names)  # fewer and smaller steps
    assert all("rewards/self_certainty/mean" in row for row in tiny.rows(names["trainer"]))
    assert names["trainer"].args.beta == 0.005


def test_trls_quickstart_with_two_lines_changed(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only what is downloaded and how long it runs is another.
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: tiny.dataset())
    code = snippet("docs/trl.md", "import RLIFTrainer as GRPOTrainer").replace(
        "Qwen/Qwen2.5-0.5B-Instruct", str(model_dir)
    )
    assert code.count("# was: ") == 2
    names: dict[str, Any] = {"args": GRPOConfig(**(SHORT | {"output_dir": str(tmp_path)}))}
    exec(code.replace("train_dataset=dataset,", "args=args, train_dataset=dataset,"), names)
    assert all("rewards/self_certainty/mean" in row for row in tiny.rows(names["trainer"]))
    assert names["trainer"].args.bf16
    assert names["trainer"].state.global_step == 2


def test_each_part_alone(model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: tiny.dataset())
    names: dict[str, Any] = {"args": tiny.config(tmp_path, beta=0.005)}
    code = snippet("docs/trl.md", "import GuardCallback, trl_reward")
    for theirs, ours in (
        ("Qwen/Qwen2.5-0.5B-Instruct", str(model_dir)),
        ("test_size=100", "test_size=2"),
        ("GRPOConfig(beta=0.005)", "args"),
    ):
        assert code.count(theirs) == 1
        code = code.replace(theirs, ours)
    exec(code, names)
    trainer = names["trainer"]
    assert all("rewards/self_certainty/mean" in row for row in tiny.rows(trainer))
    assert any("guard/base_nll" in row for row in trainer.state.log_history)
    assert (tmp_path / "best" / "model.safetensors").exists()
