"""A run is asked to stop at any moment: it stops before the next forward, and goes on to the very same bits."""

from __future__ import annotations

import io
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from forwards import before_each_forward, done_of
from rlif.errors import UserError
from rlif.files.jsonl import read_rows, write_rows
from rlif.training import loop
from rlif.training import step as step_module
from rlif.training.checkpoint import checkpoints
from rlif.training.options import TrainConfig
from rlif.training.progress import PlainProgress
from rlif.training.run_dir import CONSENSUS_FILE, EVALUATION_FILE, UNFINISHED_ROW, unfinished_row
from runs import MakeConfig, assert_same_runs, train
from tiny_models import make_model, make_tokenizer

CONSENSUS = "Asking the start model for its majority answers"
# When a run is stopped: how many rows of metrics it has, what it is doing, before which forward of that; and the
# checkpoint that it leaves.
MOMENTS = {
    "asking the start model": (0, CONSENSUS, 9, None),
    "evaluating the start model": (0, "evaluating", 12, None),
    "sampling the first step": (1, "8 completions", 3, None),
    "evaluating the first step": (1, "evaluating", 12, "checkpoint-1"),
    "learning in the second step": (2, "learning", 1, "checkpoint-1"),
}


@pytest.fixture
def config(make_config: MakeConfig, tmp_path: Path) -> TrainConfig:
    """A guarded run of two steps, which asks and evaluates three prompts, one at a time."""
    config = make_config(max_steps=2, eval_steps=1, prompts_per_step=1, num_generations=8, eval_generations=8)
    write_rows(tmp_path / "eval.jsonl", read_rows(Path(config.data))[:3])
    return replace(config, guard="warn", eval_data=str(tmp_path / "eval.jsonl"))


def rows_of(path: Path) -> int:
    return len(read_rows(path)) if path.exists() else 0


@pytest.fixture(scope="module")
def whole_runs() -> dict[str, Path]:
    """The run that nobody stopped, once it was made."""
    return {}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_that_is_stopped_loses_nothing_and_goes_no_further(
    moment: str,
    config: TrainConfig,
    whole_runs: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    if not whole_runs:
        whole_runs["run"] = tmp_path_factory.mktemp("whole") / "run"
        train(replace(config, output_dir=whole_runs["run"]))
    directory = config.output_dir
    assert directory is not None
    rows, doing, nth, checkpoint = MOMENTS[moment]
    seen, last, stopped_at = 0, 0, 0

    def stop(number: int, what: str) -> None:
        nonlocal seen, last, stopped_at
        last = number
        if what.startswith(doing) and rows_of(directory / "metrics.jsonl") == rows:
            seen += 1
            if seen == nth:
                stopped_at = number
                os.kill(os.getpid(), signal.SIGTERM)

    with before_each_forward(stop), pytest.raises(KeyboardInterrupt, match=r"^stopped .*; --resume continues"):
        train(config)
    assert 0 < stopped_at == last
    assert [path.name for path in checkpoints(directory)] == ([checkpoint] if checkpoint else [])

    again: list[str] = []
    with before_each_forward(lambda number, what: again.append(what)):
        train(replace(config, resume=True))
    assert_same_runs(whole_runs["run"], directory)
    if moment != "asking the start model":
        assert not any(what.startswith(CONSENSUS) for what in again)
    assert not (directory / EVALUATION_FILE).exists()


def test_what_another_start_model_came_to_is_no_part_of_an_evaluation(config: TrainConfig, tmp_path: Path) -> None:
    config = replace(config, guard="off", max_steps=1)  # whose start model is asked nothing
    other = tmp_path / "other"
    model = make_model()
    with torch.no_grad():
        model.get_input_embeddings().weight.neg_()
    model.save_pretrained(other)
    make_tokenizer().save_pretrained(other)
    whole = replace(config, model=str(other), output_dir=tmp_path / "whole")
    train(whole)

    def stop(number: int, what: str) -> None:
        if what.startswith("evaluating") and done_of("evaluating") == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with before_each_forward(stop), pytest.raises(KeyboardInterrupt, match=r"^stopped .*; --resume continues"):
        train(config)
    assert config.output_dir is not None
    assert rows_of(config.output_dir / EVALUATION_FILE) == 2
    train(replace(config, model=str(other), resume=True))
    assert whole.output_dir is not None
    assert_same_runs(whole.output_dir, config.output_dir)


def test_what_is_computed_is_on_the_disk_before_the_next_part_begins(config: TrainConfig) -> None:
    directory = config.output_dir
    assert directory is not None
    parts = {CONSENSUS: 0, "evaluating": 0}

    def look(number: int, what: str) -> None:
        for name, file in ((CONSENSUS, CONSENSUS_FILE), ("evaluating", EVALUATION_FILE)):
            if what.startswith(name):
                assert rows_of(directory / file) == 1 + done_of(name)  # the first row says what it is
                parts[name] = max(parts[name], done_of(name))

    with before_each_forward(look):
        train(config)
    assert parts == {CONSENSUS: 2, "evaluating": 2}  # while the last of three prompts was being sampled


def test_before_the_start_model_is_asked_there_is_a_directory_a_lock_and_a_line(config: TrainConfig) -> None:
    output, directory = io.StringIO(), config.output_dir
    assert directory is not None
    before: list[tuple[str, set[str]]] = []

    def look(number: int, what: str) -> None:
        if what.startswith(CONSENSUS):
            before.append((output.getvalue(), {path.name for path in directory.iterdir()}))

    with before_each_forward(look):
        loop.train(replace(config, max_steps=1), progress=PlainProgress(Console(file=output, width=200)))
    said, files = before[0]
    assert said == f"{CONSENSUS}: 0 of 3 prompts\n"
    assert files >= {"config.yaml", ".lock", CONSENSUS_FILE}


def test_a_step_that_has_changed_weights_is_finished_first(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(max_steps=3, num_iterations=2)
    learn, calls = step_module.learn, 0

    def stop(*arguments: object, **options: object) -> float:
        nonlocal calls
        calls += 1
        if calls == 2:  # the second update of the second step
            os.kill(os.getpid(), signal.SIGTERM)
        return learn(*arguments, **options)

    monkeypatch.setattr(step_module, "learn", stop)
    with pytest.raises(KeyboardInterrupt, match=r"^stopped after step 2; --resume continues"):
        train(config)
    assert [path.name for path in checkpoints(config.output_dir)] == ["checkpoint-2"]


@pytest.mark.parametrize(
    "text", ["", "[]\n", '{"step": 2}\n', '{"step": 1}\n{"step": 1}\n', '{"step": 1, "loss": "x"}\n']
)
def test_a_step_without_evaluation_that_somebody_has_changed_is_one_error(text: str, tmp_path: Path) -> None:
    assert unfinished_row(tmp_path, 1) is None
    (tmp_path / UNFINISHED_ROW).write_text('{"step": 1, "loss": null}\n')
    assert unfinished_row(tmp_path, 1) == pytest.approx({"step": 1, "loss": float("nan")}, nan_ok=True)
    (tmp_path / UNFINISHED_ROW).write_text(text)
    with pytest.raises(UserError, match=r"^resume: .*unfinished_step\.jsonl"):
        unfinished_row(tmp_path, 1)
