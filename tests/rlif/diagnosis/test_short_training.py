"""A short training finds the collapse step of a copy, leaves the model alone, and goes on where it was stopped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlif.diagnosis.command import run as run_diagnose
from rlif.diagnosis.options import DiagnoseConfig
from rlif.diagnosis.short_training import summarize
from rlif.errors import UserError
from rlif.files.checksums import file_sha256
from rlif.training import outcome
from rlif.training.loop import TrainResult, train
from rlif.training.options import TrainConfig

WELL = {
    "eval/consensus_prompts": 0.9, "eval/num_compared": 1000, "eval/base_nll": 0.3, "eval/kl": 0.0,
    "eval/base_nll_error": 0.005, "eval/eos_rate": 1.0, "eval/parse_rate": 1.0, "eval/repetition": 0.0,
    "eval/completion_length": 30.0,
}  # fmt: skip


@pytest.fixture
def config(model_dir: Path, tmp_path: Path) -> DiagnoseConfig:
    """A diagnosis with a training of two steps on what makes completions short."""
    rows = [{"prompt": f"{a}+{b}="} for a in range(6) for b in range(4)]
    (tmp_path / "data.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (tmp_path / "rewards.py").write_text("def brevity(completion_mask):\n    return -completion_mask.sum(dim=1) / 10\n")
    return DiagnoseConfig(
        model=str(model_dir),
        data=str(tmp_path / "data.jsonl"),
        reward=(f"{tmp_path / 'rewards.py'}:brevity",),
        output_dir=tmp_path / "out",
        num_prompts=4,
        num_generations=2,
        max_completion_length=4,
        device="cpu",
        steps=2,
        prompts_per_step=2,
        learning_rate=1e-2,
    )


def found_in(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "diagnosis.json").read_text())["rewards"]["brevity"]
    return found


def test_a_training_without_labels_is_reported_and_leaves_its_logs_and_the_model_as_it_was(
    config: DiagnoseConfig, model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: file_sha256(path) for path in model_dir.iterdir()}
    run_diagnose(config)
    assert {path.name: file_sha256(path) for path in model_dir.iterdir()} == before
    found, printed = found_in(tmp_path / "out"), " ".join(capsys.readouterr().out.split())
    training = found["short_training"]
    assert training["steps"] == training["evaluations"][-1]["step"] > 0
    assert found["verdict"]["reasons"][-1] == training["summary"]
    assert training["summary"][1:] in printed
    assert "24 different prompts; on 128 or fewer a policy hardly collapses" in printed
    folder = tmp_path / "out" / "training-brevity"
    assert {path.name for path in folder.iterdir() if path.is_dir()} == set()
    assert {"config.yaml", "metrics.jsonl", "samples.jsonl", "outcome.json"} <= {path.name for path in folder.iterdir()}


def test_a_diagnosis_that_was_interrupted_in_its_training_goes_on_and_comes_to_the_same(
    config: DiagnoseConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_diagnose(config)
    resumed = replace(config, output_dir=tmp_path / "resumed")

    def interrupted(training: TrainConfig, **options: bool) -> TrainResult:
        raise KeyboardInterrupt("stopped")

    with monkeypatch.context() as patched:
        patched.setattr(outcome, "train", interrupted)
        with pytest.raises(KeyboardInterrupt, match=r"what was done is in .*--resume goes on"):
            run_diagnose(resumed)
    run_diagnose(replace(resumed, resume=True))
    assert found_in(tmp_path / "resumed") == found_in(tmp_path / "out")
    with monkeypatch.context() as patched:  # what is finished is not repeated
        patched.setattr(outcome, "train", interrupted)
        run_diagnose(replace(resumed, resume=True))
    assert outcome.train is train
    with pytest.raises(UserError, match=r"resume: steps is 3, but the diagnosis in .* had 2"):
        run_diagnose(replace(resumed, resume=True, steps=3))


@pytest.mark.parametrize(
    ("shares", "step", "words"),
    [
        ((0.5, 0.6, 0.2), 20, "in a short training the policy has collapsed, its collapse step is 20: 20% of"),
        ((0.5, 0.6, 0.5), None, "in a short training the policy has not collapsed by step 20: 50% of completions give"),
    ],
)
def test_the_collapse_step_is_the_guards(shares: tuple[float, ...], step: int | None, words: str) -> None:
    rows = [WELL | {"step": 10 * number, "eval/consensus": share} for number, share in enumerate(shares)]
    found = summarize(TrainResult(Path(), rows, last_step=20, best_step=None))
    assert found.collapse_step == step
    assert found.summary.startswith(words)
    assert [each["consensus"] for each in found.evaluations] == list(shares)


def test_without_majority_answers_it_says_that_only_degenerate_completions_would_tell() -> None:
    rows = [WELL | {"step": step, "eval/consensus_prompts": 0.1} for step in (0, 10)]
    assert "too few prompts to compare answers" in summarize(TrainResult(Path(), rows, 10, None)).summary


def test_a_training_has_what_the_diagnosis_has_and_a_mere_metric_none(config: DiagnoseConfig) -> None:
    config.reward, config.answer_style, config.seed = ("self_certainty", "format=0"), "lenient", 7
    (training,) = config.trainings(Path("here")).values()
    assert training.output_dir == Path("here") / "training-self_certainty"
    assert (training.answer_style, training.seed, training.max_steps) == ("lenient", 7, 2)
    assert (training.guard, training.guard_labels) == ("warn", "majority")
    assert (training.resume, training.warmup_ratio) == (False, 0.0)
    config.steps = None
    assert config.trainings(Path("here")) == {}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("steps", 0, r"steps: got 0"),
        ("learning_rate", 0.0, r"learning_rate: got 0.0"),
        ("prompts_per_step", 0, r"prompts_per_step: got 0"),
    ],
)
def test_bad_options_are_one_error_before_any_work(
    name: str, value: float, message: str, config: DiagnoseConfig
) -> None:
    setattr(config, name, value)
    with pytest.raises(UserError, match=message):
        run_diagnose(config)
    assert config.output_dir is not None
    assert not config.output_dir.exists()
