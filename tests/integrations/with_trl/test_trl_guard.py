"""`GuardCallback`: rlif's guard inside TRL's trainer."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("trl", reason="trl is not installed: pip install 'rlif[trl]'")

from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM
from trl import RLOOConfig, RLOOTrainer

import tiny_trl as tiny
from rlif.errors import UserError
from rlif.integrations.trl import GuardCallback, RLIFTrainer

GUARD = "rlif.integrations.trl.guard"


def falling(model_dir: Path, directory: Path, **changes: Any) -> RLIFTrainer:
    """A run on self-certainty that is soon certain of what the start model would never say.

    By the random numbers of transformers, with which its best step is not its first.
    """
    options = {name: changes.pop(name) for name in ("peft_config",) if name in changes} | {"sampler": "transformers"}
    settings = dict(max_steps=12, optim="adamw_torch", learning_rate=3e-3, lr_scheduler_type="constant") | changes
    return RLIFTrainer(str(model_dir), "self_certainty", tiny.config(directory, **settings), tiny.dataset(), **options)


def guarded(trainer: RLIFTrainer, **changes: Any) -> GuardCallback:
    guard = GuardCallback(trainer, tiny.dataset(), **({"eval_steps": 1, "patience": 2} | changes))
    trainer.add_callback(guard)
    return guard


def observed(trainer: RLIFTrainer) -> list[dict[str, float]]:
    """The evaluations that were logged."""
    return [row for row in trainer.state.log_history if "guard/base_nll" in row]


def test_stop_ends_the_run_and_gives_the_model_the_best_weights(
    model_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = falling(model_dir, tmp_path)
    guard = guarded(trainer)
    with caplog.at_level(logging.WARNING, logger="rlif"):
        trainer.train()
    best = guard.guard.best
    assert best is not None
    last = trainer.state.global_step
    assert best.step > 0
    assert best.step + 2 <= last < 12
    assert str(guard.warning).startswith("the policy has probably begun to fall")
    # The tiny model states no answers, which the guard says first.
    said = [
        guard.guard.fallback("strict"),
        guard.warning,
        f"the guard has given the model the weights of step {best.step}",
    ]
    assert said == [record.message.split(", from")[0] for record in caplog.records if record.name == GUARD]
    assert json.loads((tmp_path / "best" / "guard.json").read_text())["step"] == best.step
    kept = AutoModelForCausalLM.from_pretrained(tmp_path / "best").state_dict()
    assert tiny.furthest(trainer.model.state_dict(), kept) == 0
    # Gold answers are reported, and each row of TRL's has all of its own.
    assert [row["step"] for row in observed(trainer)] == list(range(last + 1))
    assert all("guard/accuracy" in row for row in observed(trainer))
    assert [row["step"] for row in tiny.rows(trainer)] == list(range(1, last + 1))


def test_warn_leaves_the_run_as_it_is_without_a_guard(model_dir: Path, tmp_path: Path) -> None:
    expected = tiny.trained(falling(model_dir, tmp_path / "alone", max_steps=5))
    trainer = falling(model_dir, tmp_path / "watched", max_steps=5)
    guard = guarded(trainer, action="warn", patience=1)
    assert tiny.furthest(tiny.trained(trainer), expected) == 0
    assert guard.guard.should_stop
    assert trainer.state.global_step == 5


def test_by_gold_answers_the_guard_follows_those_of_its_rows(model_dir: Path, tmp_path: Path) -> None:
    guard = guarded(falling(model_dir, tmp_path, max_steps=2), action="warn", labels="gold")
    guard.trainer.train()
    assert [reading.score for reading in guard.guard.readings] == [
        row["guard/accuracy"] for row in observed(guard.trainer)
    ]
    assert guard.guard.fallback("strict") is None


def test_a_resumed_run_is_guarded_by_the_labels_that_it_began_with(model_dir: Path, tmp_path: Path) -> None:
    settings = dict(save_strategy="steps", save_steps=1, max_steps=1)
    guarded(falling(model_dir, tmp_path, **settings), action="warn", labels="gold").trainer.train()
    resumed = guarded(falling(model_dir, tmp_path, **settings | {"max_steps": 2}), action="warn")
    with pytest.raises(UserError, match="labels: got 'majority', but the run that is resumed was guarded by 'gold'"):
        resumed.trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            "gold",
            r"labels: got 'gold', but 0 of \d+ held-out prompts have a gold answer \(`answer`\); expected at least 50%",
        ),
        ("silver", "labels: got 'silver', expected 'majority' or 'gold'"),
    ],
)
def test_labels_that_are_not_there_are_refused(labels: str, message: str, model_dir: Path, tmp_path: Path) -> None:
    trainer = falling(model_dir, tmp_path)
    with pytest.raises(UserError, match=message):
        GuardCallback(trainer, tiny.dataset().remove_columns("answer"), labels=labels)


def test_a_resumed_run_recalls_what_the_guard_has_seen(
    model_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = dict(save_strategy="steps", save_steps=3, max_steps=6)
    first = guarded(falling(model_dir, tmp_path, **settings), action="warn")
    first.trainer.train()
    resumed = guarded(falling(model_dir, tmp_path, **settings), action="warn")
    resumed.trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert resumed.guard.readings[:4] == first.guard.readings[:4]
    assert [reading.step for reading in resumed.guard.readings] == list(range(7))
    assert resumed.guard.best == first.guard.best
    assert resumed.consensus == first.consensus
    shutil.rmtree(tmp_path / "best")
    with caplog.at_level("WARNING"):
        bereft = guarded(falling(model_dir, tmp_path, **settings), action="warn")
        bereft.trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert "the guard found no whole policy in" in caplog.text
    assert bereft.guard.best in bereft.guard.readings[4:]


def test_a_second_run_of_the_same_trainer_is_judged_afresh(model_dir: Path, tmp_path: Path) -> None:
    guard = guarded(falling(model_dir, tmp_path, max_steps=2), action="warn")
    for _ in range(2):
        guard.trainer.train()
        assert [reading.step for reading in guard.guard.readings] == [0, 1, 2]


def test_what_the_guard_cannot_sample_from_is_refused(model_dir: Path, tmp_path: Path) -> None:
    settings = tiny.SETTINGS | {"output_dir": str(tmp_path)}
    rloo = RLOOTrainer(str(model_dir), lambda completions, **_: [0.0] * 8, RLOOConfig(**settings), tiny.dataset())
    with pytest.raises(UserError, match="trainer: got RLOOTrainer, expected a GRPOTrainer"):
        GuardCallback(rloo, tiny.dataset())
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(model_dir), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    )
    trainer = RLIFTrainer(
        model, "format", tiny.config(tmp_path, beta=0.01), tiny.dataset(), processing_class=tiny.make_tokenizer()
    )
    with pytest.raises(UserError, match="got an adapter of virtual tokens"):
        guarded(trainer)


def test_a_process_samples_no_more_at_a_time_than_in_training(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = falling(model_dir, tmp_path)
    assert guarded(trainer).options.completions_per_batch == 2 * 4
    monkeypatch.setattr(trainer.args, "generation_batch_size", 16)
    monkeypatch.setattr(trainer.accelerator.state, "num_processes", 4)
    assert guarded(trainer).options.completions_per_batch == 4


def test_without_its_adapter_the_model_is_the_start_model(model_dir: Path, tmp_path: Path) -> None:
    adapter = LoraConfig(task_type="CAUSAL_LM")
    trainer = falling(model_dir, tmp_path, peft_config=adapter, max_steps=8, learning_rate=3e-2)
    guard = guarded(trainer, patience=1)
    trainer.train()
    assert observed(trainer)[0]["guard/kl"] == 0
    assert observed(trainer)[-1]["guard/kl"] > 0
    kept = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_dir), tmp_path / "best").state_dict()
    assert guard.warning is not None  # so that the last policy is not the best
    assert tiny.furthest(trainer.model.state_dict(), kept) == 0
    # An adapter that was trained before is part of the start model, which then nothing remembers.
    trainer.model.set_adapter("default")
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    with pytest.raises(UserError, match=r"adapter was trained before.*expected beta > 0"):
        guarded(trainer)


@pytest.mark.parametrize("beta", [0.0, 0.01])
def test_the_start_model_is_the_one_that_training_began_with(beta: float, model_dir: Path, tmp_path: Path) -> None:
    trainer = falling(model_dir, tmp_path, beta=beta, max_steps=2)
    guard = guarded(trainer, action="warn")
    trainer.train()
    assert guard.models.start_model is not None
    start = guard.models.start_model.scorer.get_submodule("model")
    assert tiny.furthest(start.state_dict(), AutoModelForCausalLM.from_pretrained(model_dir).state_dict()) == 0
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert not torch.equal(start(input_ids=ids).logits, trainer.model(input_ids=ids).logits)
    assert (start is trainer.ref_model) == (beta > 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action": "halt"}, r"action: got 'halt', expected 'stop' or 'warn'"),
        ({"eval_steps": 0}, r"eval_steps: got 0, expected at least 1"),
        ({"patience": 0}, r"patience: got 0, expected at least 1"),
    ],
)
def test_bad_options_are_named(changes: dict[str, Any], message: str, model_dir: Path, tmp_path: Path) -> None:
    trainer = falling(model_dir, tmp_path)
    with pytest.raises(UserError, match=message):
        guarded(trainer, **changes)
    trainer.is_fsdp_enabled = True  # accelerate has FSDP on accelerators alone
    with pytest.raises(UserError, match="trainer: got FSDP or DeepSpeed, expected one process, or DDP"):
        guarded(trainer)


def test_rows_that_do_not_suit_the_guard_are_refused_by_their_column(model_dir: Path, tmp_path: Path) -> None:
    trainer = falling(model_dir, tmp_path)
    for rows, message in (
        ([], "prompts: got none"),
        (["1+1="], "prompts: got '1\\+1=', expected rows with a column prompt"),
        ([{"question": "1+1=", "answer": "2"}], "got a row with the columns question, answer, expected one named prom"),
        ([{"prompt": "1+1="}, {"prompt": None}], "^prompt: got None, expected text or a conversation"),
        ([{"prompt": "1+1=", "image": object()}], "^image: got images beside a prompt"),
        ([{"prompt": "1+1=", "answer": {"a": 2}}], r"^answer, row 1 of the prompts: got \{'a': 2\} of type dict"),
    ):
        with pytest.raises(UserError, match=message) as error:
            GuardCallback(trainer, rows)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="answer_column: got 'gold', expected a column of the prompts, which have prom"):
        GuardCallback(trainer, tiny.dataset(), answer_column="gold")
    GuardCallback(trainer, tiny.dataset().remove_columns("answer"))  # answers are only reported
