"""What people see and what a run computes does not change by moving code: help texts, a run's configuration, weights.

`python -m pytest tests/golden --record` writes the records anew, which is right after a change that CHANGELOG.md names.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rlif.cli import COMMANDS, parse
from rlif.training.loop import train
from rlif.training.options import TrainConfig

RECORDED = Path(__file__).parent / "recorded"


@pytest.fixture
def agrees(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare a text with the record of that name, or write the record."""

    def compare(name: str, text: str) -> None:
        path = RECORDED / name
        if request.config.getoption("--record"):
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8")

    return compare


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_reads_as_recorded(command, agrees, monkeypatch, capsys):
    for name, value in (("COLUMNS", "100"), ("NO_COLOR", "1"), ("TERM", "dumb")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)  # workers of the lab
    with pytest.raises(SystemExit):
        parse([*([command] if command else []), "--help"])
    agrees(f"help-{command or 'rlif'}.txt", capsys.readouterr().out)


@pytest.fixture(scope="module")
def short_run(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> Path:
    """Three steps of a tiny model on one thread; the directory of the run."""
    directory = tmp_path_factory.mktemp("golden")
    data = directory / "data.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"{a}+{a}=", "answer": 2 * a}) + "\n" for a in range(8)))
    config = TrainConfig(
        model=str(model_dir), data=str(data), output_dir=directory / "run", max_steps=3, prompts_per_step=2,
        num_generations=4, max_completion_length=6, learning_rate=1e-3, device="cpu", guard="off",
    )  # fmt: skip
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train(config)
    torch.set_num_threads(threads)
    return directory / "run"


def test_a_run_writes_the_recorded_configuration(short_run, model_dir, agrees):
    text = (short_run / "config.yaml").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]  # the header names the day's versions
    text = "\n".join(lines).replace(str(short_run.parent), "DIR").replace(str(model_dir), "MODEL") + "\n"
    agrees("config.yaml", text)


def test_three_steps_give_the_recorded_weights(short_run, request):
    weights = load_file(short_run / "model" / "model.safetensors")
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(name.encode() + value.numpy().tobytes())
    # Bits are those of one kind of processor and one build of torch; norms are the same anywhere.
    where = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()} torch {torch.__version__}"
    norms = {name: value.double().norm().item() for name, value in sorted(weights.items())}
    path = RECORDED / "weights.json"
    if request.config.getoption("--record"):
        path.write_text(json.dumps({"where": where, "sha256": digest.hexdigest(), "norms": norms}, indent=1) + "\n")
    recorded = json.loads(path.read_text())
    assert norms.keys() == recorded["norms"].keys()
    for name, norm in norms.items():
        assert math.isclose(norm, recorded["norms"][name], rel_tol=1e-5), name
    if where == recorded["where"]:
        assert digest.hexdigest() == recorded["sha256"]
