"""Models whose distributions token by token are not those of the whole text are refused."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertLMHeadModel,
    Lfm2Config,
    Lfm2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    RecurrentGemmaConfig,
    RecurrentGemmaForCausalLM,
)

from rlif.errors import UserError
from rlif.models.language_model import load_language_model
from rlif.rollouts.decoding_check import check_decoding
from runs import MakeConfig, train


def with_model(model_dir: Path, directory: Path, model: torch.nn.Module) -> Path:
    """The tokenizer of `model_dir` beside another model."""
    shutil.copytree(model_dir, directory)
    (directory / "model.safetensors").unlink()
    model.save_pretrained(directory)
    return directory


@pytest.mark.parametrize("architecture", ["mamba", "recurrent gemma", "bert"])
def test_models_that_cannot_be_sampled_as_they_are_scored_are_refused(
    architecture: str, make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config()
    vocab_size = load_language_model(config.model, device="cpu", dtype="float32").model.config.vocab_size
    models = {
        # Mamba keeps its state elsewhere: fed token by token with a KV cache it has no context.
        "mamba": lambda: MambaForCausalLM(MambaConfig(vocab_size=vocab_size, hidden_size=32, num_hidden_layers=2)),
        # RecurrentGemma keeps some of it in its modules, where it follows the tokens of a row, but not the rows.
        "recurrent gemma": lambda: RecurrentGemmaForCausalLM(
            RecurrentGemmaConfig(
                vocab_size=vocab_size,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=3,
                lru_width=32,
                num_attention_heads=2,
                num_key_value_heads=1,
                attention_window_size=8,
                block_types=["recurrent", "recurrent", "attention"],
            )
        ),
        # BERT looks at the tokens that come after.
        "bert": lambda: BertLMHeadModel(
            BertConfig(vocab_size=vocab_size, hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
        ),
    }
    model = models[architecture]()
    torch.nn.init.normal_(model.get_output_embeddings().weight, std=1.0)  # a fresh model is too flat to tell
    config.model = str(with_model(Path(config.model), tmp_path / architecture, model))
    with pytest.raises(UserError, match=r"^model: \w+ (gives other distributions|cannot be sampled)"):
        train(config)
    assert not config.output_dir.exists()


def test_a_model_whose_weights_are_not_finite_is_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config()
    model = load_language_model(config.model, device="cpu", dtype="float32").model
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(torch.nan)
    config.model = str(with_model(Path(config.model), tmp_path / "nan", model))
    with pytest.raises(UserError, match="gives logits that are not finite, before any training"):
        train(config)


def test_models_that_can_be_sampled_as_they_are_scored_pass_in_bfloat16_too(model_dir: Path) -> None:
    for dtype in ("float32", "bfloat16"):
        language_model = load_language_model(str(model_dir), device="cpu", dtype=dtype)
        check_decoding(language_model, [1, 2, 3])
        check_decoding(language_model, [1])


def test_a_model_whose_convolutions_keep_their_state_in_the_cache_passes(model_dir: Path) -> None:
    language_model = load_language_model(str(model_dir), device="cpu", dtype="float32")
    vocab_size = language_model.model.config.vocab_size
    config = Lfm2Config(
        vocab_size=vocab_size, hidden_size=32, intermediate_size=64, num_attention_heads=2, num_key_value_heads=1,
        num_hidden_layers=2, layer_types=["conv", "full_attention"],
    )  # fmt: skip
    model = Lfm2ForCausalLM(config).eval()
    torch.nn.init.normal_(model.get_output_embeddings().weight, std=1.0)
    check_decoding(dataclasses.replace(language_model, model=model), [1, 2, 3, 4, 5])


class PaddingSeen(torch.nn.Module):
    """A model that takes padding for tokens."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model, self.config, self.dtype = model, model.config, model.dtype

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        **options: Any,
    ) -> Any:
        if attention_mask is not None:
            attention_mask, position_ids = torch.ones_like(attention_mask), None
        return self.model(input_ids, attention_mask=attention_mask, position_ids=position_ids, **options)


def test_a_model_that_takes_padding_for_tokens_is_refused(model_dir: Path) -> None:
    language_model = load_language_model(str(model_dir), device="cpu", dtype="float32")
    seen = PaddingSeen(language_model.model)
    seen.device = language_model.device
    with pytest.raises(UserError, match=r"^model: PaddingSeen gives other distributions"):
        check_decoding(dataclasses.replace(language_model, model=seen), [1, 2, 3, 4, 5])
