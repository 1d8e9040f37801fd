"""LoRA trains the adapter alone, and without it the model is the start model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from rlif.errors import UserError
from runs import MakeConfig, train


def test_lora_trains_the_adapter_alone_and_the_start_model_is_the_model_without_it(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(lora_rank=4, beta=0.1, max_steps=3, num_generations=4)
    config = replace(config, eval_data=config.data)
    rows = train(config).rows
    assert rows[1]["kl"] == 0.0  # of the first update: the adapter starts as nothing
    assert rows[-1]["kl"] > 0.0
    assert rows[0]["eval/kl"] == 0.0
    assert rows[-1]["eval/kl"] > 0.0
    saved = config.output_dir / "model"
    assert sorted(path.name for path in saved.glob("*.safetensors")) == ["adapter_model.safetensors"]
    trained = AutoModelForCausalLM.from_pretrained(saved)  # the model that was started from, and the adapter
    start = AutoModelForCausalLM.from_pretrained(config.model)
    ids = torch.tensor([[3, 4, 5]])
    assert not torch.equal(trained(ids).logits, start(ids).logits)
    trained.disable_adapters()
    assert torch.equal(trained(ids).logits, start(ids).logits)


def test_lora_needs_modules_that_there_are(make_config: MakeConfig) -> None:
    with pytest.raises(UserError, match=r"^lora_target_modules: got \['query'\]"):
        train(make_config(lora_rank=4, lora_target_modules=("query",)))


def test_a_head_that_is_trained_whole_scores_and_is_switched_off_for_the_start_model(make_config: MakeConfig) -> None:
    runs = []
    for fused in (True, False):
        config = make_config(lora_rank=4, lora_modules_to_save=("lm_head",), beta=0.1, max_steps=3, fused_head=fused)
        config = replace(config, output_dir=config.output_dir.with_name(f"fused-{fused}"))
        runs.append(train(config).rows)
        saved = load_file(config.output_dir / "model" / "adapter_model.safetensors")
        (head,) = [weight for name, weight in saved.items() if "lm_head" in name]
        assert not torch.equal(head, load_file(Path(config.model) / "model.safetensors")["model.embed_tokens.weight"])
    assert runs[0][0]["kl"] == 0.0
    assert runs[0][-1]["kl"] > 0.0
    for fused_row, plain_row in zip(*runs, strict=True):
        # Two ways to logits in float32, whose differences three updates of 1e-3 carry on.
        assert fused_row["self_certainty"] == pytest.approx(plain_row["self_certainty"], rel=1e-3)


def test_a_module_to_save_has_to_be_there(make_config: MakeConfig) -> None:
    with pytest.raises(UserError, match=r"^lora_modules_to_save: got 'head', expected the name of a module"):
        train(make_config(lora_rank=4, lora_modules_to_save=("head",)))


def test_a_head_of_which_a_part_counts_takes_no_adapter_but_can_be_trained_whole(make_config: MakeConfig) -> None:
    with pytest.raises(
        UserError, match=r"^lora_target_modules: got the head with vocab_size 17, expected other modules"
    ):
        train(make_config(lora_rank=4, lora_target_modules=("lm_head",), vocab_size=17, fused_head=False))
    train(make_config(lora_rank=4, lora_modules_to_save=("lm_head",), vocab_size=17, max_steps=1))
