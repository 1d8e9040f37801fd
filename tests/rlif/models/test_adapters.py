"""A directory with an adapter loads as the model that it makes: merged, and free to be trained again."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen3ForCausalLM

from rlif.conversion.convert import convert
from rlif.errors import UserError
from rlif.models.language_model import LanguageModel, load_language_model
from runs import MakeConfig, train

F32 = torch.float32
IDS = torch.tensor([[3, 15, 4, 17, 5, 2]])


def load(path: Path | str, **settings: str) -> LanguageModel:
    return load_language_model(str(path), **({"device": "cpu", "dtype": "float32"} | settings))


@pytest.fixture
def adapter(make_config: MakeConfig) -> Path:
    """Trained on a model whose head is tied to its embeddings, with a head of its own."""
    config = make_config(lora_rank=4, lora_modules_to_save=("lm_head",), max_steps=2)
    train(config)
    return config.output_dir / "model"


def test_it_loads_merged_with_the_logits_of_the_two_together(adapter: Path, model_dir: Path, tmp_path: Path) -> None:
    merged = load(adapter)
    stacked = AutoModelForCausalLM.from_pretrained(adapter)
    assert not hasattr(merged.model, "peft_config")
    # W x + B (A x) beside (W + B A) x in float32, of logits of order 10.
    torch.testing.assert_close(merged.model(IDS).logits, stacked(IDS).logits, atol=1e-4, rtol=1e-4)
    start = load(model_dir).model
    assert not torch.equal(merged.model.get_output_embeddings().weight, start.get_output_embeddings().weight)
    assert torch.equal(merged.model.get_input_embeddings().weight, start.get_input_embeddings().weight)
    convert(str(adapter), tmp_path / "whole")  # refuses unless the saved one is the same
    assert not load(tmp_path / "whole").model.config.tie_word_embeddings


def test_in_bfloat16_its_weights_alone_are_rounded(adapter: Path, model_dir: Path, tmp_path: Path) -> None:
    coarse, fine = (load(adapter, dtype=dtype).model for dtype in ("bfloat16", "float32"))
    rounded = fine.state_dict()
    assert all(torch.equal(weight, rounded[name].bfloat16()) for name, weight in coarse.state_dict().items())
    # The frequencies of positions are no weights: at position 1000 a rounded one is radians off.
    ordinary = dict(load(model_dir, dtype="bfloat16").model.named_buffers())
    for name, buffer in coarse.named_buffers():
        assert torch.equal(buffer, ordinary[name]), name
        assert buffer.dtype == torch.float32, name
    convert(str(adapter), tmp_path / "whole", dtype="bfloat16")  # refuses unless the saved one is the same


def test_what_a_class_wants_in_float32_stays_so(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Qwen3ForCausalLM, "_keep_in_fp32_modules_strict", {"q_norm"})
    kept = {name for name, weight in load(adapter, dtype="bfloat16").model.named_parameters() if weight.dtype == F32}
    assert kept == {f"model.layers.{layer}.self_attn.q_norm.weight" for layer in (0, 1)}


def test_it_can_be_trained_on_by_another_adapter_and_as_it_is(adapter: Path, make_config: MakeConfig) -> None:
    again = make_config(model=str(adapter), output_dir=adapter.parent / "again", lora_rank=2, max_steps=1)
    train(again)
    assert not torch.equal(load(again.output_dir / "model").model(IDS).logits, load(adapter).model(IDS).logits)
    train(replace(again, lora_rank=0, output_dir=adapter.parent / "whole"))
    assert (adapter.parent / "whole" / "model" / "model.safetensors").exists()


def test_it_may_leave_the_tokenizer_to_its_model(adapter: Path) -> None:
    for path in adapter.glob("*token*"):
        path.unlink()
    assert load(adapter).tokenizer("1+2=")["input_ids"] == [4, 13, 5, 14]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base_model_name_or_path": None}, "has base_model_name_or_path None, expected the model that the adapter"),
        ({"base_model_name_or_path": "/nowhere/x"}, "is an adapter, its base: got '/nowhere/x', which does not exist"),
        ({"base_model_name_or_path": "ITSELF"}, "is an adapter of itself"),
        ({"peft_type": "NONSENSE"}, "could not load"),
    ],
)
def test_one_that_belongs_to_no_model_is_one_line(change: dict[str, str], message: str, adapter: Path) -> None:
    path = adapter / "adapter_config.json"
    change = {name: str(adapter) if value == "ITSELF" else value for name, value in change.items()}
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=f"^model: .*{message}") as error:
        load(adapter)
    assert "\n" not in str(error.value)


def test_one_without_safetensors_is_one_line(adapter: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(adapter, tmp_path / "copied"))
    (copied / "adapter_model.safetensors").rename(copied / "adapter_model.bin")
    with pytest.raises(UserError, match=r"has no adapter_model\.safetensors"):
        load(copied)
