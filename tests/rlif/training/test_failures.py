"""What goes wrong in the field: each one clear error, and nothing that was computed is lost."""

from __future__ import annotations

import pytest
from transformers import AutoModelForCausalLM

from rlif.errors import UserError
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


def test_a_full_disk_is_one_error_and_leaves_no_half_model(make_config: MakeConfig) -> None:
    config = make_config(max_steps=1)
    with files_of_at_most(4096), pytest.raises(UserError, match=r"cannot save .*model.*File too large"):
        train(config)
    assert sorted(path.name for path in config.output_dir.iterdir()) == [
        "config.yaml",
        "metrics.jsonl",
        "samples.jsonl",
    ]
