"""The stages follow one another, alone or together, and bad input is named before anything is written."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from rlif.cli import parse
from rlif.errors import UserError
from rlif.self_feedback import sample as sampling
from rlif.self_feedback.command import models_table, with_recorded
from rlif.self_feedback.command import run as run_self_feedback
from rlif.self_feedback.options import (
    RankOptions,
    SampleOptions,
    SelfFeedbackConfig,
    Stage,
    TrainOptions,
)

STAGES: tuple[Stage, ...] = ("sample", "rank", "train", "measure")


MakeConfig = Callable[..., SelfFeedbackConfig]


def contents(directory: Path) -> dict[str, bytes]:
    """Every file but the figure, whose bytes matplotlib decides."""
    files = (path for path in sorted(directory.rglob("*")) if path.is_file() and path.suffix != ".png")
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}


def test_stages_one_by_one_write_what_all_in_one_writes_and_a_repetition_changes_nothing(
    of_command: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_self_feedback(of_command())
    printed = capsys.readouterr().out
    said = "sample: few completions state an answer; try answer_style lenient"
    nothing = (
        "measure: no completion of the start model and the tuned model states an answer, so that 0% is no measurement"
    )
    for word in (said, nothing, "sample: 24 completions of 6 prompts", "rank: ", "train: ", "accuracy", "ECE", "AUROC"):
        assert word in printed
    together = contents(tmp_path / "out")
    assert {
        "samples.jsonl", "preferences.jsonl", "ranking.json", "measure.json", "model/model.safetensors",
        "train-dpo/metrics.jsonl",
    } <= set(together)  # fmt: skip
    assert (tmp_path / "out" / "reliability.png").stat().st_size > 0
    for stage in STAGES:
        run_self_feedback(of_command(stage=stage, output_dir=tmp_path / "alone"))
    assert contents(tmp_path / "alone") == together
    run_self_feedback(of_command())
    assert contents(tmp_path / "out") == together


def test_ranking_again_with_another_threshold_trains_in_the_same_directory_once_the_old_metrics_are_gone(
    of_command: MakeConfig, tmp_path: Path
) -> None:
    run_self_feedback(of_command())
    samples = (tmp_path / "out" / "samples.jsonl").read_bytes()
    rank = replace(of_command().rank, max_pairs_per_prompt=2)
    other = of_command(rank=rank)
    run_self_feedback(replace(other, stage="rank"))
    with pytest.raises(UserError, match=r"preferences: got .* or metrics.jsonl removed"):
        run_self_feedback(replace(other, stage="train"))
    (tmp_path / "out" / "train-dpo" / "metrics.jsonl").unlink()
    run_self_feedback(replace(other, stage="train"))
    assert (tmp_path / "out" / "samples.jsonl").read_bytes() == samples


def test_ranking_says_that_sampling_was_interrupted_and_ranks_what_there_is(
    of_command: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_self_feedback(of_command(stage="sample"))
    samples = tmp_path / "out" / "samples.jsonl"
    samples.write_bytes(b"".join(samples.read_bytes().splitlines(keepends=True)[:4]))
    run_self_feedback(of_command(stage="rank"))
    printed = capsys.readouterr().out
    assert "rank: `sample` was interrupted after 4 of 6 prompts; these are ranked" in printed
    assert "of 4 prompts" in printed


def test_what_was_sampled_until_the_program_was_killed_is_ranked_as_it_would_have_been_at_the_end(
    of_command: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample_batch = sampling._sample_batch

    def killed_at_the_second_batch(*arguments: Any) -> Any:
        if arguments[-1] > 0:
            raise MemoryError
        return sample_batch(*arguments)

    monkeypatch.setattr(sampling, "_sample_batch", killed_at_the_second_batch)
    options = replace(of_command().sample, prompts_per_batch=3)
    with pytest.raises(MemoryError):
        run_self_feedback(of_command(stage="sample", sample=options))
    with (tmp_path / "out" / "samples.jsonl").open("a") as file:
        file.write('{"index": 3, "pro')
    # Nothing is said of the model, so the confidence is the paper's only if it is known not to be the built-in one.
    rank = RankOptions(threshold=-1.0, choose_unfinished=True)
    run_self_feedback(SelfFeedbackConfig(stage="rank", output_dir=tmp_path / "out", rank=rank))
    pair = json.loads((tmp_path / "out" / "preferences.jsonl").read_text().splitlines()[0])
    rows = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()[:3]]
    scores = [completion["confidence"]["probability_disparity"] for row in rows for completion in row["completions"]]
    assert pair["confidence"] in scores


def test_a_later_stage_knows_what_the_last_release_sampled(of_command: MakeConfig, tmp_path: Path) -> None:
    config = of_command(stage="sample")
    run_self_feedback(config)
    (tmp_path / "out" / "config.yaml").unlink()
    sample = asdict(config.sample)
    sample["questions_per_batch"] = sample.pop("prompts_per_batch")
    names = (
        "model data eval_data data_config split eval_split prompt_column answer_column chat system_prompt seed dtype"
    )
    record = {name: getattr(config, name) for name in names.split()} | {"built_in_questions": 400, "sample": sample}
    (tmp_path / "out" / "sampled.json").write_text(json.dumps(record, indent=1) + "\n")
    recalled = with_recorded(SelfFeedbackConfig(stage="rank", output_dir=tmp_path / "out"))
    assert (recalled.model, recalled.eval_data, recalled.sample) == (config.model, config.eval_data, config.sample)


def test_a_later_stage_knows_what_was_sampled_from_what(of_command: MakeConfig, tmp_path: Path) -> None:
    run_self_feedback(of_command())
    expected = contents(tmp_path / "out")
    for stage in ("rank", "train", "measure"):
        told = of_command(stage=stage)
        short = SelfFeedbackConfig(
            stage=stage,
            output_dir=tmp_path / "out",
            device="cpu",
            rank=told.rank,
            train=told.train,
            measure=told.measure,
        )
        run_self_feedback(short)  # the model is the user's, not the built-in one
    assert contents(tmp_path / "out") == expected
    # The paper's confidence, not that of the built-in model.
    rank = RankOptions(threshold=-1.0, choose_unfinished=True)
    run_self_feedback(SelfFeedbackConfig(stage="rank", output_dir=tmp_path / "out", rank=rank))
    pair = json.loads((tmp_path / "out" / "preferences.jsonl").read_text().splitlines()[0])
    rows = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").open()]
    scores = [completion["confidence"]["probability_disparity"] for row in rows for completion in row["completions"]]
    assert pair["confidence"] in scores


def test_an_adapter_is_trained_and_measured(of_command: MakeConfig, tmp_path: Path) -> None:
    options = TrainOptions(num_train_epochs=1, learning_rate=1e-2, pairs_per_step=8, lora_rank=4)
    run_self_feedback(of_command(train=options))
    assert (tmp_path / "out" / "model" / "adapter_model.safetensors").is_file()
    before, after = ((tmp_path / "out" / f"measure-{name}.jsonl").read_bytes() for name in ("start", "tuned"))
    assert before != after


def test_samples_above_and_below_the_threshold_are_learned_without_pairs(
    of_command: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_self_feedback(of_command(stage="sample"))
    rows = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").open()]
    scores = [completion["confidence"]["inverse_perplexity"] for row in rows for completion in row["completions"]]
    rank = replace(of_command().rank, threshold=float(np.median(scores)))
    train = TrainOptions(objective="nft", num_train_epochs=1, learning_rate=1e-4, pairs_per_step=8)
    for stage in ("train", "measure"):
        run_self_feedback(of_command(stage=stage, rank=rank, train=train))
    assert "samples told apart" in capsys.readouterr().out
    with pytest.raises(UserError, match="preferences: got a file of pairs with the objective nft"):
        run_self_feedback(of_command(stage="train", rank=rank, train=train, preferences=Path("pairs.jsonl")))


def test_of_a_model_that_states_no_answer_nothing_is_shown_as_measured() -> None:
    row = {"accuracy": 0.25, "accuracy_se": math.nan, "answered": 0.5}
    row |= {f"probability_disparity/{name}": 0.125 for name in ("mean", "ece", "brier", "auroc")}
    console = Console(record=True, width=80)
    console.print(models_table({"a": row, "b": row | {"accuracy": 0.0, "answered": 0.0}}, "probability_disparity", 4))
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in console.export_text().splitlines()]
    assert [each for each in cells if each] == [
        ["accuracy", "25.0%", "-"], ["state an answer", "50.0%", "0.0%"], ["mean confidence", "0.125", "-"],
        ["ECE", "0.125", "-"], ["Brier", "0.125", "-"], ["AUROC", "0.125", "-"],
    ]  # fmt: skip


def test_what_is_left_open_is_the_papers_choice_or_suits_the_built_in_model() -> None:
    paper = parse(["self-feedback", "--model", "m", "--data", "d"]).resolved()
    assert (paper.sample.sampling, paper.sample.temperature, paper.sample.answer_span) == ("branch", 0.0, "elicited")
    assert (paper.sample.num_generations, paper.rank.threshold, paper.rank.confidence) == (
        10,
        0.9,
        "probability_disparity",
    )
    assert (paper.train.beta, paper.train.learning_rate, paper.train.num_train_epochs) == (0.2, 1e-6, 3)
    built_in = parse(["self-feedback", "--beta", "2"]).resolved()
    assert (built_in.sample.sampling, built_in.sample.temperature) == ("independent", 1.0)
    assert (built_in.train.beta, built_in.train.learning_rate) == (2.0, 1e-4)
    assert parse(["self-feedback", "train", "--objective", "reward_model"]).resolved().train.use_margin


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": None}, "data: got none with model, expected both"),
        ({"model": "/nowhere/model"}, "model: got '/nowhere/model', which does not exist"),
        ({"data": "missing.jsonl"}, "data: got 'missing.jsonl', which is not a file"),
        ({"eval_data": "missing.jsonl"}, "eval_data: got 'missing.jsonl', which is not a file"),
        (
            {"stage": "rank"},
            "output_dir: cannot read .*samples.jsonl: No such file .*`rlif self-feedback sample` writes",
        ),
        ({"stage": "train"}, "output_dir: cannot read .*preferences.jsonl"),
        ({"stage": "train", "preferences": Path("no.jsonl")}, "preferences: cannot read no.jsonl"),
        ({"stage": "measure"}, "tuned_model: got none, and .* does not exist"),
        ({"stage": "train", "model": None, "data": None}, "model: got none, and no record of one in .*config.yaml"),
        ({"stage": "measure", "eval_data": None}, "eval_data: got none, expected held-out prompts"),
        ({"sample": SampleOptions(num_generations=1)}, "num_generations: got 1, expected an integer of at least 2"),
        (
            {"sample": SampleOptions(num_generations=99, max_completion_length=5)},
            "num_generations: got 99 branches, expected at most",
        ),
        (
            {"sample": SampleOptions(max_completion_length=30)},
            "max_completion_length: 30 tokens after the longest prompt's 6, and the .* exceed the model's 64",
        ),
        (
            {"sample": SampleOptions(max_completion_length=5, elicitation="")},
            "elicitation: got '', which has no tokens",
        ),
        (
            {"sample": SampleOptions(sampling="independent", temperature=0.0)},
            "temperature: got 0 for independent samples, which would all be the same",
        ),
        (
            {"train": TrainOptions(label_smoothing=0.1, loss_type="ipo")},
            "label_smoothing: got 0.1 with ipo, expected 0",
        ),
        ({"rank": RankOptions(confidence="p_true")}, "confidence: got p_true without a judge"),
        ({"train": TrainOptions(objective="reward_model")}, "objective: got reward_model with every stage"),
    ],
)
def test_bad_input_is_named_before_anything_is_written(
    changes: dict[str, Any], message: str, of_command: MakeConfig, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        run_self_feedback(of_command(**changes))
    written = [path.name for path in (tmp_path / "out").rglob("*")] if (tmp_path / "out").exists() else []
    assert [name for name in written if name not in ("samples.jsonl", "samples.settings.json", "config.yaml")] == []


@pytest.mark.parametrize("group", ["sample", "rank", "train", "measure"])
@pytest.mark.parametrize("value", [None, {}, "all", 3, SelfFeedbackConfig])
def test_options_of_a_stage_that_are_something_else_are_one_error(group: str, value: object) -> None:
    config = SelfFeedbackConfig(**{group: value})  # type: ignore[arg-type]
    for act in (config.resolved, config.validate, lambda: run_self_feedback(config)):
        with pytest.raises(UserError, match=rf"^{group}: got .*, expected options of its own$"):
            act()


def test_several_processes_are_refused(of_command: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="got several processes, expected one"):
        run_self_feedback(of_command())
