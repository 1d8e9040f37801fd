"""`use_fused_token_stats`: TRL's log-probabilities, entropies and updates, by rlif's kernels."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    Cohere2Config,
    Cohere2ForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

pytest.importorskip("trl", reason="trl is not installed: pip install 'rlif[trl]'")

from peft import LoraConfig
from trl import GRPOTrainer, RLOOConfig, RLOOTrainer

import tiny_trl as tiny
from rlif.errors import UserError
from rlif.integrations import supported
from rlif.integrations import trl as integration
from rlif.integrations.trl import FusedTokenStats, use_fused_token_stats

# Two float32 ways of computing a log-probability of a few nats.
TOLERANCE = dict(rtol=1e-5, atol=1e-5)


def make(architecture: str) -> PreTrainedModel:
    """A random model whose logits are scaled, capped, or those of experts."""
    torch.manual_seed(0)
    sizes = tiny.SIZES
    if architecture == "softcap":
        return Gemma2ForCausalLM(Gemma2Config(**sizes, final_logit_softcapping=3.0))
    if architecture == "logit scale":
        return Cohere2ForCausalLM(Cohere2Config(**sizes, logit_scale=0.3))
    if architecture == "experts":
        experts = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
        return Qwen3MoeForCausalLM(Qwen3MoeConfig(**sizes, **experts, output_router_logits=True))
    return Qwen3ForCausalLM(Qwen3Config(**sizes))


def stock(model: Any, directory: Path, **changes: Any) -> GRPOTrainer:
    def shortness(completion_ids: list[list[int]], **kwargs: object) -> list[float]:
        return [-float(len(set(ids))) for ids in completion_ids]

    options = {name: changes.pop(name) for name in ("peft_config",) if name in changes}
    return GRPOTrainer(
        model,
        shortness,
        tiny.config(directory, **changes),
        tiny.dataset(),
        processing_class=tiny.make_tokenizer(),
        **options,
    )


def scored(trainer: Any) -> dict[str, torch.Tensor]:
    """Log-probabilities, entropies, the experts' loss and the gradients of a fixed batch, some of it padding."""
    ids = torch.arange(3 * 9).view(3, 9) % 37 + 3
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    mask[1, 7:] = 0
    trainer.model.zero_grad()
    logps, entropies, aux = trainer._get_per_token_logps_and_entropies(
        trainer.model, ids, mask, 5, batch_size=2, compute_entropy=True, compute_aux_loss=trainer.aux_loss_enabled
    )
    weights = torch.linspace(-1, 1, logps.numel()).view_as(logps)
    loss = (weights * logps).sum() + 0.3 * entropies.sum() + (0 if aux is None else aux)
    loss.backward()
    found = {"logps": logps.detach(), "entropies": entropies.detach()} | ({} if aux is None else {"aux": aux.detach()})
    return found | {name: each.grad.clone() for name, each in trainer.model.named_parameters() if each.grad is not None}


@pytest.mark.parametrize("architecture", ["plain", "softcap", "logit scale", "experts"])
def test_values_and_gradients_are_trls(architecture: str, tmp_path: Path) -> None:
    trainer = stock(make(architecture), tmp_path, temperature=0.7)
    expected = scored(trainer)
    with use_fused_token_stats(trainer):
        found = scored(trainer)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, **TOLERANCE, msg=name)


def test_values_are_trls_with_a_head_in_float32_on_a_bfloat16_model(tmp_path: Path) -> None:
    trainer = stock(make("plain").bfloat16(), tmp_path, cast_lm_head_to_fp32=True)
    expected = scored(trainer)
    with use_fused_token_stats(trainer):
        found = scored(trainer)
    for name in ("logps", "entropies"):
        torch.testing.assert_close(found[name], expected[name], **TOLERANCE)


def test_values_are_trls_under_autocast(tmp_path: Path) -> None:
    trainer = stock(make("plain"), tmp_path, bf16=True)
    expected = scored(trainer)
    with use_fused_token_stats(trainer):
        found = scored(trainer)
    # TRL's tile and ours hold the same logits, rounded to bfloat16, and go on in float32.
    torch.testing.assert_close(found["logps"], expected["logps"], **TOLERANCE)


def test_a_model_that_accelerate_has_put_under_autocast_still_fits(model_dir: Path, tmp_path: Path) -> None:
    # bf16 is TRL's default, and the reference model is wrapped before anybody has the trainer.
    trainer = stock(str(model_dir), tmp_path, bf16=True, beta=0.01, max_steps=1)
    wrapped = trainer.ref_model.forward
    with use_fused_token_stats(trainer):
        trainer.train()
    assert trainer.ref_model.forward is wrapped


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo"])
def test_every_loss_takes_the_steps_that_it_takes_in_trl(loss_type: str, model_dir: Path, tmp_path: Path) -> None:
    changes = dict(loss_type=loss_type, num_iterations=2, beta=0.01, max_steps=3, entropy_coef=0.01)
    expected = tiny.trained(stock(str(model_dir), tmp_path, **changes))
    trainer = stock(str(model_dir), tmp_path, **changes)
    use_fused_token_stats(trainer)
    assert tiny.furthest(tiny.trained(trainer), expected) <= 1e-5  # against steps of some 1e-2
    assert trainer.fused_token_stats.patches[1].model is trainer.ref_model


@pytest.mark.parametrize("whole", [None, ["lm_head"]])
def test_an_adapter_takes_the_steps_that_it_takes_in_trl(
    whole: list[str] | None, model_dir: Path, tmp_path: Path
) -> None:
    adapter = LoraConfig(task_type="CAUSAL_LM", modules_to_save=whole)
    changes: dict[str, Any] = dict(peft_config=adapter, beta=0.01)
    expected = tiny.trained(stock(str(model_dir), tmp_path, **changes))
    trainer = stock(str(model_dir), tmp_path, **changes)
    use_fused_token_stats(trainer)
    assert tiny.furthest(tiny.trained(trainer), expected) <= 1e-5


def test_rloo_has_the_same_functions_and_takes_the_same_steps(model_dir: Path, tmp_path: Path) -> None:
    def make_trainer() -> RLOOTrainer:
        return RLOOTrainer(
            str(model_dir),
            lambda completion_ids, **kwargs: [float(ids[0] % 5) for ids in completion_ids],
            RLOOConfig(output_dir=str(tmp_path), **tiny.SETTINGS, beta=0.01),
            tiny.dataset(),
        )

    expected = tiny.trained(make_trainer())
    trainer = make_trainer()
    use_fused_token_stats(trainer)
    assert tiny.furthest(tiny.trained(trainer), expected) <= 1e-5


def test_undo_puts_back_the_very_functions(model_dir: Path, tmp_path: Path) -> None:
    trainer = stock(str(model_dir), tmp_path, beta=0.01)
    models = [trainer.model, trainer.ref_model]
    before = [vars(model)["forward"] for model in models]
    fused = use_fused_token_stats(trainer)
    assert use_fused_token_stats(trainer) is fused
    assert all(vars(model)["forward"] is not forward for model, forward in zip(models, before, strict=True))
    fused.undo()
    assert all(vars(model)["forward"] is forward for model, forward in zip(models, before, strict=True))


def test_undo_leaves_trls_function_in_charge_where_accelerate_has_wrapped_ours(tmp_path: Path) -> None:
    trainer = stock(make("plain"), tmp_path, bf16=True, max_steps=1)
    fused = use_fused_token_stats(trainer)
    trainer.train()
    fused.undo()
    with fused.recording(("logprob",)) as recorded:
        scored(trainer)
    assert recorded == []
    with use_fused_token_stats(trainer), fused.recording(("logprob",)) as recorded:
        scored(trainer)
    assert len(recorded) == 2


def test_what_does_not_fit_is_refused_and_nothing_exchanged(model_dir: Path, tmp_path: Path) -> None:
    model = make("plain")
    model.lm_head.__class__ = type("OwnHead", (torch.nn.Linear,), {})
    trainer = stock(model, tmp_path)
    with pytest.raises(UserError, match=r"has OwnHead as its output embedding, expected a plain Linear; TRL's own"):
        use_fused_token_stats(trainer)
    with pytest.raises(UserError, match=r"Qwen3ForCausalLM is of torch.float64, expected one of torch.float32"):
        use_fused_token_stats(stock(make("plain").double(), tmp_path))
    with pytest.raises(UserError, match="trainer: got object, expected one of GRPOTrainer, RLOOTrainer, DistillationT"):
        FusedTokenStats(object())
    trainer = stock(str(model_dir), tmp_path)
    before = trainer.model.forward
    trainer._dist.zero_stage = 3
    with pytest.raises(UserError, match="got DeepSpeed ZeRO-3"):
        use_fused_token_stats(trainer)
    assert trainer.model.forward is before


def test_an_unsupported_trl_is_refused_on_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supported, "version", lambda package: "1.17.0")
    with pytest.raises(ImportError, match=r"supports trl .*<1.17.*, and trl 1.17.0 is installed"):
        importlib.reload(integration)
