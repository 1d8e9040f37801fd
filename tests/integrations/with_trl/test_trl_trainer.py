"""`RLIFTrainer` draws completions and learns by rlif's ops, and the steps and metrics are TRL's."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("trl", reason="trl is not installed: pip install 'rlif[trl]'")

from peft import LoraConfig, PrefixTuningConfig
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM
from trl import GRPOTrainer

import tiny_trl as tiny
from rlif.errors import UserError
from rlif.integrations.trl import RLIFTrainer, fused
from rlif.integrations.trl.drawing import NotServedError, drawing_of

# Each way of TRL's trainer in which rlif draws.
DRAWN: dict[str, dict[str, Any]] = {
    "plain": {},
    "nucleus": {"temperature": 0.7, "top_k": 5, "top_p": 0.9, "num_iterations": 2, "beta": 0.05},
    "cut-off completions masked": {"mask_truncated_completions": True, "max_completion_length": 24},
    "parts of groups": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
    "LoRA": {"peft_config": LoraConfig(task_type="CAUSAL_LM"), "beta": 0.05, "activation_checkpointing": True},
}
# Each loss of TRL's, with something beside it; its bonus is another mean than the loss's. TRL corrects the penalty
# unless it is told not to.
LOSSES: dict[str, dict[str, Any]] = {
    "grpo": {"importance_sampling_level": "sequence", "num_iterations": 2},
    "bnpo": {"entropy_coef": 0.01, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
    "dr_grpo": {"delta": 1.5, "num_iterations": 2},
    "dapo": {
        "use_adaptive_entropy": True, "entropy_coef": 0.01, "entropy_target": 5.0, "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2, "mask_truncated_completions": True, "max_completion_length": 24,
    },
    "luspo": {"importance_sampling_level": "sequence", "use_bias_correction_kl": False},
    "cispo": {"epsilon_high": 1.1, "num_iterations": 2, "entropy_coef": -0.01},
    "sapo": {"num_iterations": 2, "peft_config": LoraConfig(task_type="CAUSAL_LM", modules_to_save=["lm_head"])},
    "vespo": {"num_iterations": 2},
}  # fmt: skip


def variety(completion_ids: list[list[int]], **_: object) -> list[float]:
    return [float(len(set(ids))) for ids in completion_ids]


def make(trainer_class: Any, model: Any, reward: Any, directory: Path, **changes: Any) -> Any:
    named = ("peft_config", "sampler", "processing_class")
    options = {name: changes.pop(name) for name in named if name in changes}
    model = str(model) if isinstance(model, Path) else model
    return trainer_class(model, reward, tiny.config(directory, **changes), tiny.dataset(), **options)


def off_the_start(trainer: Any) -> Any:
    """The trainer, its policy off the start model, which a penalty holds it to."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return trainer


def record(trainer: Any) -> list[list[list[int]]]:
    """The completions that a trainer draws, call by call."""
    drawn: list[list[list[int]]] = []
    generate = trainer._generate_single_turn

    def recorded(*args: Any, **kwargs: Any) -> Any:
        completions, logprobs = generate(*args, **kwargs)
        drawn.append([list(ids) for ids in completions])
        return completions, logprobs

    trainer._generate_single_turn = recorded
    return drawn


@pytest.mark.parametrize("mode", DRAWN)
def test_from_the_completions_that_rlif_draws_the_steps_are_trls(mode: str, model_dir: Path, tmp_path: Path) -> None:
    trainer = make(RLIFTrainer, model_dir, "self_certainty", tmp_path, **DRAWN[mode])
    drawn = record(trainer)
    found = tiny.trained(trainer)
    assert trainer.sampler == "rlif"
    assert len({tuple(ids) for ids in drawn[0]}) > 1
    assert all(ids[:-1] and trainer.eos_token_ids[0] not in ids[:-1] for part in drawn for ids in part)

    reward = tiny.SelfCertainty()
    stock = reward.trainer = make(GRPOTrainer, model_dir, reward, tmp_path, **DRAWN[mode])
    again = iter(drawn)
    stock._generate_single_turn = lambda *_, **__: (next(again), None)
    expected = tiny.trained(stock)
    assert next(again, None) is None
    assert tiny.furthest(found, expected) <= 1e-5  # of steps of some 1e-2; rewards differ by rounding
    for row, other in zip(tiny.rows(trainer), tiny.rows(stock), strict=True):
        assert row.keys() == other.keys()
        assert row["rewards/self_certainty/mean"] == pytest.approx(other["rewards/self_certainty/mean"], abs=1e-5)


def test_the_most_likely_tokens_alone_are_those_of_generate(model_dir: Path, tmp_path: Path) -> None:
    trainer = make(RLIFTrainer, model_dir, "format", tmp_path, top_k=1, max_steps=1)
    prompts: list[list[int]] = []
    drawn, tokenize = record(trainer), trainer._tokenize_prompts
    trainer._tokenize_prompts = lambda texts: (prompts.extend(tokenize(texts)[0]), tokenize(texts))[1]
    trainer.train()
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    for ids, completion in zip(prompts, drawn[0], strict=True):
        whole = model.generate(torch.tensor([ids]), max_new_tokens=8, do_sample=False)[0].tolist()
        assert completion == whole[len(ids) :]
    assert len(prompts) == 8


@pytest.mark.parametrize("loss_type", LOSSES)
def test_every_loss_in_the_head_has_trls_steps_and_metrics(
    loss_type: str, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"loss_type": loss_type, "max_steps": 3, "beta": 0.5} | LOSSES[loss_type]
    stock = off_the_start(make(GRPOTrainer, model_dir, variety, tmp_path, **changes))
    expected = tiny.trained(stock)
    losses = []

    def spy(*args: Any, **options: Any) -> Any:
        losses.append(linear_grpo_loss(*args, **options))
        return losses[-1]

    linear_grpo_loss = fused.linear_grpo_loss
    monkeypatch.setattr(fused, "linear_grpo_loss", spy)
    trainer = off_the_start(make(RLIFTrainer, model_dir, variety, tmp_path, sampler="transformers", **changes))
    found = tiny.trained(trainer)
    assert len(losses) == 3 * changes.get("gradient_accumulation_steps", 1)
    tolerance = 1e-5  # of steps of some 1e-2
    assert tiny.furthest(found, expected) <= tolerance
    timed = {"step_time"}  # how long it took
    for row, other in zip(tiny.rows(trainer), tiny.rows(stock), strict=True):
        assert row.keys() == other.keys()
        for name in row.keys() - timed:
            assert row[name] == pytest.approx(other[name], abs=5 * tolerance, rel=1e-3, nan_ok=True), name


@pytest.mark.parametrize(
    "changes",
    [
        {"top_entropy_quantile": 0.5, "beta": 0.0},
        {"off_policy_mask_threshold": 0.5},
        {"beta": 0.1, "loss_type": "vespo", "importance_sampling_level": "sequence"},
    ],
)
def test_losses_that_need_the_statistics_first_have_them(
    changes: dict[str, Any], model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(fused, "linear_grpo_loss")
    expected = tiny.trained(make(GRPOTrainer, model_dir, variety, tmp_path, **changes))
    trainer = make(RLIFTrainer, model_dir, variety, tmp_path, sampler="transformers", **changes)
    assert tiny.furthest(tiny.trained(trainer), expected) <= 1e-5


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"repetition_penalty": 1.3, "min_p": 0.1}, "generate is told of min_p, repetition_penalty"),
        ({"generation_kwargs": {"num_beams": 2}}, "generate is told of num_beams"),
        ({"generation_kwargs": {"do_sample": False}}, "another do_sample or eos_token_id"),
        ({"cache_implementation": "static"}, "generate is told of cache_implementation"),
        (
            {"peft_config": PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)},
            "its adapter is one of virtual tokens",
        ),
    ],
)
def test_what_rlif_cannot_draw_transformers_draws(
    changes: dict[str, Any], reason: str, model_dir: Path, tmp_path: Path
) -> None:
    trainer = make(RLIFTrainer, model_dir, "format", tmp_path, **changes)
    with pytest.raises(NotServedError, match=reason):
        drawing_of(trainer)
    assert trainer._drawing_of([[4]]) is None
    assert trainer.sampler == "transformers"


def test_another_sampler_is_refused(model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="sampler: got 'vllm', expected one of rlif, transformers"):
        make(RLIFTrainer, model_dir, "format", tmp_path, sampler="vllm")


@pytest.mark.parametrize("changes", [{}, {"num_iterations": 2, "sampler": "transformers"}])
def test_a_head_of_another_form_is_left_to_trl_and_named_once(
    changes: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def model() -> Qwen3ForCausalLM:
        torch.manual_seed(0)
        made = Qwen3ForCausalLM(Qwen3Config(**tiny.SIZES))
        made.lm_head.__class__ = type("OwnHead", (torch.nn.Linear,), {})
        return made

    tokenizer = tiny.make_tokenizer()
    with caplog.at_level(logging.WARNING, logger="rlif"):
        trainer = make(RLIFTrainer, model(), "self_certainty", tmp_path, processing_class=tokenizer, **changes)
    assert [record.message for record in caplog.records if "beta" not in record.message] == [
        "model: Qwen3ForCausalLM has OwnHead as its output embedding, expected a plain Linear; TRL's own functions "
        "compute its log-probabilities"
    ]
    drawn = record(trainer)
    found = tiny.trained(trainer)
    assert trainer.stats_source == "sampling"

    reward = tiny.SelfCertainty()
    options = {name: value for name, value in changes.items() if name != "sampler"}
    stock = reward.trainer = make(GRPOTrainer, model(), reward, tmp_path, processing_class=tokenizer, **options)
    again = iter(drawn)
    stock._generate_single_turn = lambda *_, **__: (next(again), None)
    assert tiny.furthest(found, tiny.trained(stock)) <= 1e-5

    # Completions from elsewhere take a forward of their own, of the model's own logits.
    trainer._drawing, trainer.sampler = None, "transformers"
    trainer.use_transformers_continuous_batching = True
    trainer._generate_single_turn = lambda *_, **__: (drawn[0], None)
    evaluated = trainer._prepare_inputs([dict(row) for row in list(tiny.dataset())[:4] for _ in range(2)])
    assert trainer.stats_source == "forward"
    assert math.isfinite(float(evaluated["advantages"].sum()))
