"""What goes wrong in the field: each one clear error, and nothing that was computed is lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from rlif.errors import UserError
from rlif.training import loop
from rlif.training.run_dir import RunDir
from runs import MakeConfig, train
from tiny_models import files_of_at_most


def test_weights_that_diverge_are_one_error_and_the_metrics_stay(make_config: MakeConfig) -> None:
    config = make_config(learning_rate=1e-3, weight_decay=1e300, max_steps=3)
    with pytest.raises(UserError, match=r"logits are not finite.*lower learning_rate.*metrics are in"):
        train(config)
    assert (config.output_dir / "metrics.jsonl").read_text().count("\n") >= 1
    AutoModelForCausalLM.from_pretrained(config.output_dir / "model")


def test_an_unforeseen_error_saves_the_model_and_says_where(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(max_steps=3)
    from rlif.training import loop as trainer

    original = trainer.train_step

    def fail_at_step_2(*arguments: object) -> object:
        if arguments[2] == 2:
            raise RuntimeError("out of memory")
        return original(*arguments)

    monkeypatch.setattr(trainer, "train_step", fail_at_step_2)
    with pytest.raises(RuntimeError, match="out of memory") as caught:
        train(config)
    assert "the model in" in "".join(caught.value.__notes__)
    AutoModelForCausalLM.from_pretrained(config.output_dir / "model")


@pytest.mark.parametrize("changed", [False, True])
def test_impatience_takes_nothing_from_what_is_saved(
    changed: bool, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the weights change a step is abandoned; after that one Ctrl-C lets it end, and a second does not."""
    config = make_config(max_steps=3)
    original = loop.update

    def update(learner: object, rollout: object, step: int, *more: object) -> dict[str, float]:
        if step == 2 and not changed:
            ctrl_c()
        metrics = original(learner, rollout, step, *more)  # type: ignore[arg-type]
        if step == 2:
            ctrl_c(2)
        return metrics

    monkeypatch.setattr(loop, "update", update)
    for name in ("salvaged", "kept"):
        monkeypatch.setattr(loop, name, impatient(getattr(loop, name)))
    said = "in step 2; metrics are in .*run, the model in .*model" if changed else "after step 1; --resume .*run"
    with pytest.raises(KeyboardInterrupt, match=rf"^stopped {said}$"):
        train(config)
    AutoModelForCausalLM.from_pretrained(config.output_dir / ("model" if changed else "checkpoint-1"))


def ctrl_c(times: int = 1) -> None:
    for _ in range(times):
        os.kill(os.getpid(), signal.SIGINT)


def impatient(save: Callable[..., str]) -> Callable[..., str]:
    """The same, with Ctrl-C before it and after it."""

    def wrapped(*arguments: object, **named: object) -> str:
        ctrl_c(4)
        place = save(*arguments, **named)
        ctrl_c()
        return place

    return wrapped


def test_ctrl_c_while_the_model_is_saved_at_the_end_is_no_interruption(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = RunDir.save_model

    def interrupted(*arguments: Any) -> Path:
        os.kill(os.getpid(), signal.SIGINT)
        return save(*arguments)

    monkeypatch.setattr(RunDir, "save_model", interrupted)
    result = train(make_config(max_steps=1))
    AutoModelForCausalLM.from_pretrained(result.run_dir / "model")


def test_a_run_directory_that_is_removed_in_the_run_is_said_to_be(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(max_steps=3)
    original = loop.update

    def update(learner: object, rollout: object, step: int, *more: object) -> dict[str, float]:
        if step == 2:
            config.output_dir.rename(config.output_dir.with_name("renamed"))
        return original(learner, rollout, step, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "update", update)
    with pytest.raises(
        UserError, match=r"run was removed or renamed while the run wrote to it, the model in .*model\)$"
    ):
        train(config)
    AutoModelForCausalLM.from_pretrained(config.output_dir / "model")
    assert (config.output_dir.with_name("renamed") / "metrics.jsonl").read_text().count("\n") == 1


def test_a_full_disk_is_one_error_and_leaves_no_half_model(make_config: MakeConfig) -> None:
    config = make_config(max_steps=1)
    with files_of_at_most(4096), pytest.raises(UserError, match=r"cannot save .*model.*File too large"):
        train(config)
    assert sorted(path.name for path in config.output_dir.iterdir()) == [
        "config.yaml",
        "metrics.jsonl",
        "samples.jsonl",
    ]
