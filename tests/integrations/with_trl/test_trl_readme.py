"""The README's snippets for TRL do what they say, as they stand there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import datasets
import pytest

pytest.importorskip("trl", reason="trl is not installed: pip install 'rlif[trl]'")

from trl import GRPOConfig

import tiny_trl as tiny

README = Path(__file__).parents[3] / "README.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def snippet(part: str) -> str:
    (found,) = [each for each in SNIPPETS if part in each]
    return found


def test_trls_quickstart_with_two_lines_changed(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only what is downloaded and how long it runs is another.
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: tiny.dataset())
    code = snippet("import RLIFTrainer as GRPOTrainer").replace("Qwen/Qwen2.5-0.5B-Instruct", str(model_dir))
    assert code.count("# was: ") == 2
    # TRL's own precision, too: it trains under autocast.
    short = {name: value for name, value in tiny.SETTINGS.items() if name != "bf16"} | {"output_dir": str(tmp_path)}
    names: dict[str, Any] = {"args": GRPOConfig(**short)}
    exec(code.replace("train_dataset=dataset,", "args=args, train_dataset=dataset,"), names)
    assert all("rewards/self_certainty/mean" in row for row in tiny.rows(names["trainer"]))
    assert names["trainer"].args.bf16
    assert names["trainer"].state.global_step == 2


def test_each_part_alone(model_dir: Path, tmp_path: Path) -> None:
    names: dict[str, Any] = {
        "model": str(model_dir),
        "args": tiny.config(tmp_path),
        "dataset": tiny.dataset(),
        "held_out": tiny.dataset(),
    }
    exec(snippet("import GuardCallback, trl_reward"), names)
    trainer = names["trainer"]
    assert all("rewards/self_certainty/mean" in row for row in tiny.rows(trainer))
    assert any("guard/base_nll" in row for row in trainer.state.log_history)
    assert (tmp_path / "best" / "model.safetensors").exists()
