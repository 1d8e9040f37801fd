"""Models whose distributions token by token are not those of the whole text are refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertLMHeadModel, MambaConfig, MambaForCausalLM

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


@pytest.mark.parametrize("architecture", ["mamba", "bert"])
def test_models_that_cannot_be_sampled_as_they_are_scored_are_refused(
    architecture: str, make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config()
    vocab_size = load_language_model(config.model, device="cpu", dtype="float32").model.config.vocab_size
    models = {
        # Mamba keeps its state elsewhere: fed token by token with a KV cache it has no context.
        "mamba": lambda: MambaForCausalLM(MambaConfig(vocab_size=vocab_size, hidden_size=32, num_hidden_layers=2)),
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
        check_decoding(load_language_model(str(model_dir), device="cpu", dtype=dtype), [1, 2, 3])
