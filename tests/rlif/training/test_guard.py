"""The guard finds the fall without labels, keeps the best policy, and degenerate samples do not fool it."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from rlif.data.prompts import Prompt
from rlif.errors import UserError
from rlif.models.language_model import LanguageModel
from rlif.rollouts.encode import EncodedPrompt, encode_prompts
from rlif.training import loop
from rlif.training.checkpoint import checkpoints
from rlif.training.command import guard_summary
from rlif.training.guard import Guard, Reading
from rlif.training.held_out import held_out
from rlif.training.loop import TrainResult
from rlif.training.options import TrainConfig
from rlif.training.progress import SilentProgress
from rlif.training.setup import Run, validation_options
from rlif.training.validation import majority_answers
from runs import MakeConfig, assert_same_runs, evaluated, train
from tiny_models import frozen_start_model

# A policy that is well: its samples are likely, end, state answers, and half of them are the start model's.
WELL = {
    "consensus": 0.5,
    "consensus_prompts": 0.9,
    "num_compared": 1000,
    "base_nll": 0.3,
    "kl": 0.0,
    "base_nll_error": 0.005,
    "eos_rate": 1.0,
    "parse_rate": 1.0,
    "repetition": 0.02,
    "completion_length": 30.0,
}
FREE_FORM = WELL | {"consensus_prompts": 0.1}  # answers that cannot be compared
LABELLED = WELL | {"gold_prompts": 1.0, "num_gold": 1000}  # of a run that learns from gold answers


class Told(SilentProgress):
    """What a run warns of."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def observe(guard: Guard, *changes: dict[str, float], start: dict[str, float] = WELL) -> list[str | None]:
    return [guard.observe(10 * step, start | change) for step, change in enumerate(changes)]


def test_a_guard_without_answers_to_go_by_says_what_it_goes_by_and_what_may_help() -> None:
    def said(start: dict[str, float]) -> str | None:
        guard = Guard(patience=2)
        guard.observe(0, start)
        return guard.fallback("strict")

    assert said(WELL) is None
    free_form = str(said(FREE_FORM))
    assert "a majority answer of the start model to 10% of its prompts only (less than 50%), so it goes by" in free_form
    assert free_form.endswith("NLL plus KL, which turn later")  # they state answers, and disagree
    silent = str(said(FREE_FORM | {"parse_rate": 0.02, "eos_rate": 0.25}))
    assert silent.startswith(free_form + "; try answer_style lenient, which reads prose too; a system_prompt")
    assert silent.endswith("a longer max_completion_length (75% were cut off)")


def test_a_run_without_answers_says_so_of_its_guard_and_of_its_reward_once_each(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    told = Told()
    loop.train(make_config(reward=("majority_vote",), guard="warn"), progress=told)
    guard, reward = told.warnings
    assert guard.startswith("the guard has a majority answer of the start model to 0% of its prompts only")
    assert reward.startswith(
        "no completion of this step states an answer, by which majority_vote tells them apart: try"
    )
    told = Told()
    loop.train(make_config(reward=("token_entropy",), output_dir=tmp_path / "other"), progress=told)
    assert told.warnings == []


def test_the_best_policy_agrees_most_with_the_start_models_majority_and_a_fall_warns_once() -> None:
    guard = Guard(patience=2)
    shares = [{"consensus": share} for share in (0.5, 0.6, 0.66, 0.65, 0.55, 0.5)]
    warnings = observe(guard, *shares)
    assert guard.best is not None
    assert guard.best.step == 20
    assert [warning is not None for warning in warnings] == [False, False, False, False, True, False]
    assert "55% of completions give the start model's majority answer, 66% did at step 20" in str(warnings[4])
    assert guard.should_stop


def test_a_fall_within_the_sampling_error_is_none_and_recovery_begins_the_count_anew() -> None:
    guard = Guard(patience=2)
    # Two standard errors of the difference of two shares near .6 of 1000 samples are .044.
    assert observe(guard, {"consensus": 0.6}, {"consensus": 0.57}) == [None, None]
    observe(guard, {"consensus": 0.5}, {"consensus": 0.59}, {"consensus": 0.5})
    assert guard.falling == 1
    assert not guard.should_stop


def test_without_comparable_answers_likelihood_and_drift_decide() -> None:
    guard = Guard(patience=2)
    drift = [{"base_nll": nll, "kl": kl} for nll, kl in ((0.3, 0.0), (0.2, 0.01), (0.15, 0.03), (0.14, 0.09))]
    warnings = observe(guard, *drift, start=FREE_FORM)
    assert guard.best is not None
    assert guard.best.step == 20  # the NLL alone still fell at step 30
    assert "NLL plus KL is 0.23 nats a token, 0.18 at step 20" in str(warnings[3])


@pytest.mark.parametrize(
    ("degenerate", "words"),
    [
        ({"repetition": 0.9}, "repeat themselves"),
        ({"completion_length": 2.0}, "another length"),
        ({"completion_length": 90.0}, "another length"),
        ({"eos_rate": 0.1}, "no longer end"),
        ({"parse_rate": 0.3}, "no longer state an answer"),
    ],
)
@pytest.mark.parametrize("start", [WELL, FREE_FORM])
def test_degenerate_samples_are_never_the_best_however_likely_the_start_model_finds_them(
    degenerate: dict[str, float], words: str, start: dict[str, float]
) -> None:
    guard = Guard(patience=1)
    if "completion_length" in degenerate and start is WELL:
        pytest.skip("there the answers would show it, and a shorter way to the same answers is welcome")
    loved = degenerate | {"base_nll": 0.0001, "consensus": 1.0}
    warnings = observe(guard, {}, loved, start=start)
    assert guard.best is not None
    assert guard.best.step == 0
    assert guard.should_stop
    assert words in str(warnings[1])


def test_coming_to_the_point_with_the_same_answers_is_no_fault() -> None:
    guard = Guard(patience=1)
    rambling = WELL | {"completion_length": 800.0, "eos_rate": 0.3, "parse_rate": 0.5, "consensus": 0.3}
    assert guard.observe(0, rambling) is None
    assert guard.observe(10, rambling | {"completion_length": 300.0, "eos_rate": 0.95, "consensus": 0.6}) is None
    assert guard.best is not None
    assert guard.best.step == 10


def test_gold_answers_change_nothing_unless_the_guard_goes_by_them() -> None:
    with_labels, without = Guard(patience=2), Guard(patience=2)
    for step, share in enumerate((0.5, 0.6, 0.4)):
        metrics = WELL | {"consensus": share}
        with_labels.observe(step, metrics | {"accuracy": 1.0 - share})
        without.observe(step, metrics)
    assert with_labels.readings == without.readings
    assert with_labels.best == without.best


def test_by_gold_answers_a_policy_that_unlearns_a_misconception_rises() -> None:
    # As in the lab: the start model is sure of what it has wrong, so that what is right contradicts its majorities.
    courses = {"accuracy": (0.81, 0.85, 0.9), "consensus": (0.98, 0.93, 0.88)}
    steps = [dict(zip(courses, values, strict=True)) for values in zip(*courses.values(), strict=True)]
    by_gold, by_majority = Guard(patience=2), Guard(patience=2)
    assert observe(by_gold, *steps, start=LABELLED) == [None, None, None]
    assert [warning is not None for warning in observe(by_majority, *steps)] == [False, True, False]
    assert by_gold.best is not None
    assert by_gold.best.step == 20
    assert by_majority.best is not None
    assert by_majority.best.step == 0
    assert "85% of completions give the gold answer, 90% did at step 20" in str(
        by_gold.observe(30, LABELLED | {"accuracy": 0.85})
    )


def test_what_is_right_may_end_and_say_less_than_before() -> None:
    shorter = {"eos_rate": 0.5, "parse_rate": 0.5, "repetition": 0.5, "completion_length": 3.0, "accuracy": 0.9}
    guard = Guard(patience=1)
    observe(guard, {"accuracy": 0.8}, shorter, start=LABELLED)
    assert guard.best is not None
    assert guard.best.step == 10


def test_gold_answers_of_too_few_prompts_are_not_gone_by() -> None:
    guard = Guard(patience=1)
    guard.observe(0, LABELLED | {"gold_prompts": 0.4, "accuracy": 0.8})
    assert guard.readings[0].score == WELL["consensus"]


@pytest.fixture
def prompts(language_model: LanguageModel) -> list[EncodedPrompt]:
    rows = [Prompt(f"{a}+{b}=", None) for a in (1, 20) for b in (3, 4, 50)]
    return encode_prompts(language_model, rows, 40)


def test_a_policy_of_loops_is_likelier_under_the_start_model_and_still_found_out(
    language_model: LanguageModel, prompts: list[EncodedPrompt], make_config: MakeConfig
) -> None:
    config = make_config(max_completion_length=40)

    def metrics(policy: LanguageModel) -> dict[str, float]:
        start_model = frozen_start_model(language_model.model)
        return evaluated(policy, start_model, prompts, config, [None] * len(prompts)).metrics

    # The start model at a temperature near 0: it takes its likeliest token each time, which ends in loops.
    looping = copy.deepcopy(language_model.model)
    with torch.no_grad():
        looping.model.norm.weight.mul_(30)
    start, loops = metrics(language_model), metrics(replace(language_model, model=looping))
    assert loops["base_nll"] + loops["kl"] < start["base_nll"]  # by its likelihood it would be far better
    guard = Guard(patience=1)
    guard.observe(0, start)
    assert "repeat themselves" in str(guard.observe(10, loops))
    assert guard.best is not None
    assert guard.best.step == 0


def test_majority_answers_are_those_that_two_samples_share_whatever_the_batch(
    language_model: LanguageModel, prompts: list[EncodedPrompt], make_config: MakeConfig
) -> None:
    options = validation_options(make_config(max_completion_length=40, temperature=0.7))
    found = majority_answers(language_model, prompts, options, 8)
    assert found == majority_answers(language_model, prompts, replace(options, completions_per_batch=200), 8)
    assert len(found) == len(prompts)


@pytest.fixture
def falling(make_config: MakeConfig, tmp_path: Path) -> TrainConfig:
    """A run that soon learns to say nothing."""
    module = tmp_path / "rewards.py"
    module.write_text("def brevity(completion_mask):\n    return -completion_mask.float().sum(dim=1)\n")
    config = make_config(max_steps=14, eval_steps=1, learning_rate=2e-2, reward=(f"{module}:brevity",), beta=0.0)
    return replace(config, guard="stop", guard_patience=2, eval_data=config.data)


def weights(directory: Path) -> dict[str, Tensor]:
    return load_file(directory / "model.safetensors")


def test_stop_ends_the_run_with_the_best_policy_and_keeps_the_last(falling: TrainConfig, tmp_path: Path) -> None:
    result = train(falling)
    assert result.stopped
    assert result.guard_step is not None
    assert result.guard_step + falling.guard_patience <= result.last_step < falling.max_steps
    assert result.rows[-1]["guard/falling"] == falling.guard_patience
    assert str(result.warning).startswith("the policy has probably begun to fall")
    assert json.loads((result.run_dir / "best" / "guard.json").read_text())["step"] == result.guard_step
    model, best = weights(result.run_dir / "model"), weights(result.run_dir / "best")
    assert all(torch.equal(model[name], best[name]) for name in model)
    last = weights(result.run_dir / "last")
    assert not all(torch.equal(model[name], last[name]) for name in model)
    assert "stopped the run" in guard_summary(result)
    assert f"step {result.guard_step} was the best" in guard_summary(result) or result.guard_step == 0

    # A guard that only watches sees the same run: what it would have kept is what stopping kept.
    watched = train(replace(falling, guard="warn", output_dir=tmp_path / "watched"))
    assert watched.last_step == falling.max_steps
    assert watched.guard_step == result.guard_step
    kept = weights(watched.run_dir / "best")
    assert all(torch.equal(kept[name], best[name]) for name in best)
    assert not (watched.run_dir / "last").exists()
    assert not watched.stopped
    assert watched.warning == result.warning


def test_a_stopped_run_that_is_interrupted_before_it_is_saved_trains_no_further(
    falling: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(replace(falling, output_dir=tmp_path / "whole"))
    watch = Run.watch

    def interrupt(run: Run, step: int, metrics: dict[str, float]) -> tuple[dict[str, float], str | None]:
        found = watch(run, step, metrics)
        if run.should_stop:
            os.kill(os.getpid(), signal.SIGTERM)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Run, "watch", interrupt)
        with pytest.raises(KeyboardInterrupt, match=f"stopped after step {whole.last_step}; --resume continues"):
            train(falling)
    resumed = train(replace(falling, resume=True))
    assert (resumed.last_step, resumed.guard_step, resumed.stopped) == (whole.last_step, whole.guard_step, True)
    assert_same_runs(whole.run_dir, resumed.run_dir)


def test_a_run_that_learns_from_gold_answers_is_guarded_by_those_of_held_out_prompts(falling: TrainConfig) -> None:
    result = train(replace(falling, reward=(*falling.reward, "verifiable"), max_steps=8))
    assert {row["eval/gold_prompts"] for row in result.rows} == {1.0}
    readings = Guard.of_rows(result.rows).readings
    assert [each.score for each in readings] == [row["eval/accuracy"] for row in result.rows]
    assert result.guard_step == result.best_step


def test_a_run_whose_held_out_prompts_have_no_gold_answers_is_warned_at_most(
    falling: TrainConfig, write_jsonl: Callable[..., Path]
) -> None:
    told = Told()
    rows = [{"prompt": f"{a}+{b}="} for a in (1, 20) for b in (3, 4, 50)]
    config = replace(falling, reward=(*falling.reward, "verifiable"), max_steps=8)
    result = loop.train(replace(config, eval_data=str(write_jsonl(*rows, name="unlabelled.jsonl"))), progress=told)
    assert result.last_step == 8
    assert not result.stopped
    assert result.warning is not None
    assert told.warnings[0].startswith(
        "the run learns from gold answers, which only 0% of the held-out prompts have (less than 50%), so the guard "
        "goes by the start model and warns at most"
    )


def test_labels_that_the_guard_is_told_to_go_by_are_those_that_it_goes_by(falling: TrainConfig, tmp_path: Path) -> None:
    def is_by_gold(name: str, **how: Any) -> set[bool]:
        rows = train(replace(falling, output_dir=tmp_path / name, max_steps=1, **how)).rows
        return {"eval/gold_prompts" in row for row in rows}

    assert is_by_gold("gold", guard_labels="gold") == {True}
    assert is_by_gold("majority", guard_labels="majority", reward=(*falling.reward, "verifiable")) == {False}
    assert is_by_gold("auto") == {False}


def test_a_reward_that_takes_gold_answers_without_needing_them_is_guarded_by_them(
    falling: TrainConfig, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(
        "def lengths(completions, answers):\n    return [len(each) for each in answers]\n"
    )
    rows = train(replace(falling, reward=(f"{tmp_path / 'mine.py'}:lengths",), max_steps=1)).rows
    assert all("eval/gold_prompts" in row for row in rows)


def test_a_resumed_run_is_guarded_by_the_labels_that_it_began_with(falling: TrainConfig) -> None:
    config = replace(falling, guard="warn", reward=(*falling.reward, "verifiable"), max_steps=1, save_steps=1)
    train(replace(config, guard_labels="majority"))
    record = config.output_dir / "config.yaml"  # of a version that had no such option
    record.write_text("".join(line for line in record.open() if not line.startswith("guard_labels")))
    again = replace(config, resume=True, max_steps=2)
    with pytest.raises(
        UserError, match="guard_labels: got 'gold', but the guard of the run that is resumed has gone by"
    ):
        train(replace(again, guard_labels="gold"))
    assert not any("eval/gold_prompts" in row for row in train(again).rows)


def test_evaluations_without_a_guard_between_those_with_one_are_passed_over() -> None:
    rows = [{"step": step} | {f"eval/{name}": value for name, value in LABELLED.items()} for step in (0, 10, 20)]
    for row in rows:
        row["eval/accuracy"] = 0.8
    for name in ("gold_prompts", "num_gold", "consensus", "consensus_prompts", "num_compared"):
        rows[1].pop(f"eval/{name}")
    assert [reading.step for reading in Guard.of_rows(rows).readings] == [0, 20]


def test_gold_labels_that_held_out_prompts_lack_are_refused_before_anything_is_written(
    falling: TrainConfig, write_jsonl: Callable[..., Path]
) -> None:
    data = write_jsonl({"prompt": "1+3=", "answer": 4}, {"prompt": "20+3="}, {"prompt": "20+4="}, name="some.jsonl")
    message = (
        "guard_labels: got 'gold', but 1 of 3 held-out prompts have a gold answer (`answer`); expected at least 50%"
    )
    with pytest.raises(UserError, match=re.escape(message)):
        train(replace(falling, guard_labels="gold", eval_data=str(data)))
    assert falling.output_dir is not None
    assert not falling.output_dir.exists()


def test_a_gold_answer_that_is_only_measured_does_not_keep_the_guard_from_stopping(falling: TrainConfig) -> None:
    assert train(replace(falling, reward=(*falling.reward, "verifiable=0"))).stopped


def test_off_evaluates_nothing_and_keeps_nothing(make_config: MakeConfig) -> None:
    result = train(make_config(guard="off"))
    assert result.guard_step is None
    assert not (result.run_dir / "best").exists()
    assert not any(name.startswith("eval/") for row in result.rows for name in row)


@pytest.mark.slow
def test_a_resumed_run_is_guarded_as_if_it_had_never_stopped(falling: TrainConfig, tmp_path: Path) -> None:
    config = replace(falling, guard="warn", max_steps=6)
    whole = train(replace(config, output_dir=tmp_path / "whole"))
    train(replace(config, max_steps=3, save_steps=3))
    assert [path.name for path in checkpoints(config.output_dir)] == ["checkpoint-3"]
    resumed = train(replace(config, resume=True))
    assert resumed.guard_step == whole.guard_step

    def guard_rows(result: TrainResult) -> list[tuple[float, float]]:
        return [(row["guard/best_step"], row["guard/falling"]) for row in result.rows]

    assert guard_rows(resumed) == guard_rows(whole)


def test_a_run_that_was_interrupted_after_its_best_is_not_falling_while_it_goes_up_again() -> None:
    guard = Guard(patience=2)
    observe(guard, {"consensus": 0.4}, {"consensus": 0.45})
    later = Reading(step=50, score=0.7, error=0.015, fault=None)
    guard.best = later  # of RUN_DIR/best; the checkpoint is of step 10
    for step, share in ((20, 0.5), (30, 0.55), (40, 0.6)):
        assert guard.observe(step, WELL | {"consensus": share}) is None
    assert not guard.should_stop
    assert guard.observe(50, WELL | {"consensus": 0.7}) is None
    assert guard.best is later
    assert guard.observe(60, WELL | {"consensus": 0.5}) is not None


@pytest.mark.slow
def test_a_resumed_run_does_not_write_over_a_better_policy_of_a_later_step(
    falling: TrainConfig, tmp_path: Path
) -> None:
    config = replace(falling, guard="warn", max_steps=4, save_steps=2)
    train(config)
    best = tmp_path / "run" / "best"
    (best / "guard.json").write_text(json.dumps({"step": 3, "score": 2.0, "error": 0.0, "fault": None}))
    manifest = json.loads((best / "manifest.json").read_text())
    manifest["sha256"]["guard.json"] = hashlib.sha256((best / "guard.json").read_bytes()).hexdigest()
    (best / "manifest.json").write_text(json.dumps(manifest))
    shutil.rmtree(tmp_path / "run" / "checkpoint-4")
    before = (best / "model.safetensors").stat().st_mtime_ns
    assert train(replace(config, resume=True)).guard_step == 3
    assert (best / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_run_that_goes_on_after_it_was_stopped_keeps_no_last_policy_of_before(falling: TrainConfig) -> None:
    config = replace(falling, save_steps=1)
    assert (train(config).run_dir / "last").is_dir()
    result = train(replace(config, guard="warn", resume=True))
    assert not (result.run_dir / "last").exists()
    assert guard_summary(result).endswith("best/ has that policy")


@pytest.mark.parametrize(
    ("began", "goes_on", "message"),
    [
        ({}, {"guard": "off"}, "resume: guard is 'off' and eval_data None, but the run had 'stop' and None"),
        ({"guard": "off"}, {"guard": "stop"}, "resume: guard is 'stop' and eval_data None, but the run had 'off'"),
        ({"eval_data": "1"}, {"eval_data": "2"}, "resume: eval_data has changed since the run"),
        ({"eval_data": "1"}, {"eval_temperature": 0.0}, "resume: eval_temperature is 0.0, but the run had 1.0"),
    ],
)
def test_a_resumed_guard_sees_what_it_saw_before(
    began: dict[str, object],
    goes_on: dict[str, object],
    message: str,
    make_config: MakeConfig,
    write_jsonl: Callable[..., Path],
) -> None:
    files = {name: str(write_jsonl({"prompt": f"{name}+3="}, name=f"{name}.jsonl")) for name in "12"}
    config = make_config(**{"guard": "stop", "max_steps": 1, "save_steps": 1} | began)
    config = replace(config, eval_data=files.get(str(config.eval_data)))
    train(config)
    change = {name: files.get(str(value), value) for name, value in goes_on.items()}
    with pytest.raises(UserError, match=message):
        train(replace(config, resume=True, max_steps=2, **change))


def test_repeated_prompts_are_not_all_held_out() -> None:
    one = [EncodedPrompt("1+1=", None, [1, 2])] * 1000
    assert held_out(one, 128, seed=0) == (one, one[:1])
    hundred = [EncodedPrompt(str(i % 100), None, [i % 100]) for i in range(1000)]
    kept, guards = held_out(hundred, 128, seed=0)
    assert len(guards) == len({prompt.text for prompt in guards}) == 10
    assert len(kept) == 900


def test_held_out_prompts_are_a_tenth_that_training_never_sees() -> None:
    prompts = [EncodedPrompt(str(i), None, [i]) for i in range(1000)]
    kept, guards = held_out(prompts, 128, seed=0)
    assert len(guards) == 100
    assert len(kept) == 900
    assert not {prompt.text for prompt in kept} & {prompt.text for prompt in guards}
    assert held_out(prompts, 128, seed=0) == (kept, guards)
    repeated = [prompt for prompt in prompts for _ in range(2)]
    assert not {p.text for p in held_out(repeated, 50, seed=1)[0]} & {p.text for p in held_out(repeated, 50, seed=1)[1]}
    # Of too few prompts nothing is taken: the guard watches the ones that are trained on.
    few = prompts[:20]
    kept, guards = held_out(few, 128, seed=0)
    assert kept == few
    assert sorted(guards) == sorted(few)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"guard": "maybe"}, "guard: got 'maybe', expected one of stop, warn, off"),
        ({"guard_patience": 0}, "guard_patience: got 0, expected an integer of at least 1"),
        ({"guard_prompts": 0}, "guard_prompts: got 0, expected an integer of at least 1"),
    ],
)
def test_bad_options_are_named(changes: dict[str, object], message: str, make_config: MakeConfig) -> None:
    with pytest.raises(UserError, match=message):
        train(make_config(**changes))


def test_half_of_the_best_consensus_lost_is_a_collapse_whose_step_is_the_first_such() -> None:
    guard = Guard(patience=2)
    observe(guard, *({"consensus": share} for share in (0.5, 0.6, 0.31, 0.29, 0.1, 0.55)))
    assert guard.collapse is not None
    assert guard.collapse.step == 30
    assert guard.collapse_words() == (
        "the policy has collapsed, its collapse step is 30: 29% of completions give the start model's majority answer, "
        "60% did at step 10"
    )


def test_a_loss_within_the_sampling_error_is_no_collapse() -> None:
    few = WELL | {"num_compared": 16}
    guard = Guard(patience=2)
    observe(guard, {"consensus": 0.2}, {"consensus": 0.05}, start=few)  # two standard errors are .29
    assert guard.collapse is None
    assert guard.collapse_words() is None


def test_without_comparable_answers_only_degenerate_samples_are_a_collapse() -> None:
    guard = Guard(patience=2)
    observe(guard, {}, {"base_nll": 0.9, "kl": 0.5}, {"repetition": 0.9}, start=FREE_FORM)
    assert guard.collapse is not None
    assert guard.collapse.step == 20
    assert "its collapse step is 20: completions repeat themselves (repetition 0.9" in str(guard.collapse_words())


def test_a_run_up_to_its_collapse_ends_there_and_says_so(falling: TrainConfig) -> None:
    class Told(SilentProgress):
        def __init__(self) -> None:
            self.warnings: list[str] = []

        def warn(self, message: str) -> None:
            self.warnings.append(message)

    told = Told()
    result = loop.train(replace(falling, guard="warn"), progress=told, stop_at_collapse=True)
    assert result.collapse_step == result.last_step < falling.max_steps
    assert result.rows[-1]["guard/collapse_step"] == result.last_step
    assert any(f"its collapse step is {result.last_step}" in warning for warning in told.warnings)
    assert f"(collapse step {result.last_step}); " in guard_summary(replace(result, guard_step=0))
    collapse = Guard.of_rows(result.rows).collapse
    assert collapse is not None
    assert collapse.step == result.collapse_step
