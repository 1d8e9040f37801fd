"""What is loaded is ready to sample from; what cannot be loaded is said in one line."""

import json
import shutil
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from huggingface_hub.errors import RepositoryNotFoundError
from safetensors.torch import load_file, save_file

from rlif.errors import UserError
from rlif.models import sources
from rlif.models.fused_head import fused_head
from rlif.models.language_model import LanguageModel, load_language_model
from tiny_models import EOS, PAD, make_tokenizer


def load(directory: Path | str, **settings: str) -> LanguageModel:
    return load_language_model(str(directory), **({"device": "cpu", "dtype": "float32"} | settings))


@pytest.fixture
def copied(model_dir: Path, tmp_path: Path) -> Path:
    """A model directory to damage."""
    return Path(shutil.copytree(model_dir, tmp_path / "copied"))


def test_a_saved_model_loads_in_evaluation_mode_in_the_wanted_dtype(model_dir: Path) -> None:
    language_model = load(model_dir, dtype="bfloat16")
    assert language_model.model.dtype == torch.bfloat16
    assert not language_model.model.training
    assert language_model.pad_token_id == PAD
    assert language_model.eos_token_ids == (EOS,)


def test_every_end_token_of_model_and_tokenizer_ends_a_completion(copied: Path) -> None:
    (copied / "generation_config.json").write_text('{"eos_token_id": [7, 9]}')
    assert load(copied).eos_token_ids == (7, 9, EOS)


def test_padding_falls_back_to_the_end_token(copied: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(copied)
    assert load(copied).pad_token_id == EOS


def test_padding_that_the_model_has_no_embedding_of_falls_back_too(copied: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(copied)
    assert load(copied).pad_token_id == EOS


def test_an_end_token_that_the_model_has_no_embedding_of_is_an_error(copied: Path) -> None:
    (copied / "generation_config.json").write_text('{"eos_token_id": 5000}')
    assert load(copied).eos_token_ids == (EOS,)  # the tokenizer's own
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([f"<{number}>" for number in range(500)])
    tokenizer.eos_token = "<499>"
    tokenizer.save_pretrained(copied)
    with pytest.raises(UserError, match=r"ends completions with token \d+, but has embeddings for \d+ tokens"):
        load(copied)


def test_a_saved_language_model_loads_again_with_equal_weights(model_dir: Path, tmp_path: Path) -> None:
    first = load(model_dir)
    first.save(tmp_path / "again")
    again = load(tmp_path / "again")
    for before, after in zip(first.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(before, after)
    assert again.tokenizer("1+2=")["input_ids"] == first.tokenizer("1+2=")["input_ids"]


@pytest.mark.parametrize("name", ["/nowhere/model", "./model", "~/nowhere/model", "a/b/c", "model/", ""])
def test_a_missing_model_directory_is_an_error_and_is_not_looked_for_on_the_hub(name: str) -> None:
    with pytest.raises(UserError, match="which does not exist; expected a model directory, a GGUF file or a hub id"):
        load(name)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            ConnectionError("no route to host"),
            "cannot be reached: ConnectionError: no route to host (HF_HUB_OFFLINE=1 ",
        ),
        (RepositoryNotFoundError("404", response=Mock(headers={})), "has no such public model"),
    ],
    ids=["out of reach", "no such model"],
)
def test_the_hub_is_asked_once_for_what_is_not_here(
    answer: Exception, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def ask(url: str, *, timeout: float) -> None:
        asked.append(url)
        raise answer

    monkeypatch.setattr(sources, "get_hf_file_metadata", ask)
    with pytest.raises(UserError) as refused:
        load("nothere")
    assert str(refused.value).startswith(
        f"model: got 'nothere', which is no model here, and the Hugging Face hub {said}"
    )
    (url,) = asked
    assert url.endswith("/nothere/resolve/main/config.json")


def test_what_was_downloaded_before_and_what_is_no_name_there_are_not_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(sources, "get_hf_file_metadata", never)
    monkeypatch.setattr(sources, "try_to_load_from_cache", lambda name, file: str(tmp_path / file))
    sources.check_model_path("downloaded")
    monkeypatch.undo()
    monkeypatch.setattr(sources, "get_hf_file_metadata", never)
    with pytest.raises(UserError, match=r"^model: got 'not here', which is no model here, and no name on the Hugging"):
        sources.check_model_path("not here")


def test_a_directory_without_a_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no config\.json"):
        load(tmp_path)


def test_a_model_without_its_tokenizer_is_an_error(copied: Path) -> None:
    # Left to itself, transformers makes an empty tokenizer here, and every prompt would have no tokens.
    for path in copied.glob("*token*"):
        path.unlink()
    with pytest.raises(UserError, match="has no tokenizer"):
        load(copied)


@pytest.mark.parametrize("content", [None, b"", b"not safetensors"])
def test_missing_or_broken_weights_are_one_error(copied: Path, content: bytes | None) -> None:
    if content is None:
        (copied / "model.safetensors").unlink()
    else:
        (copied / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="model: could not load") as error:
        load(copied)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["{}", "not json", '{"model_type": "no-such-model"}'])
def test_a_broken_configuration_is_one_error(copied: Path, content: str) -> None:
    (copied / "config.json").write_text(content)
    with pytest.raises(UserError, match="model: could not load") as error:
        load(copied)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("generation_config.json", "eos_token_id"),
        ("tokenizer_config.json", "model_max_length"),
        ("config.json", "logit_scale"),
        ("config.json", "logits_scaling"),
        ("config.json", "final_logit_softcapping"),
    ],
)
def test_a_setting_of_another_type_is_one_error(file: str, name: str, copied: Path) -> None:
    written = json.loads((copied / file).read_text())
    for value in ("x", {}, [[0]], True):
        (copied / file).write_text(json.dumps(written | {name: value}))
        with pytest.raises(UserError, match=r"^model: .* expected (token ids|a number|a finite number)$"):
            fused_head(load(copied).model)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", ""])
def test_a_device_that_torch_cannot_use_is_an_error(model_dir: Path, device: str) -> None:
    with pytest.raises(UserError, match=f"device: got '{device}', expected a device that torch can use"):
        load(model_dir, device=device)


def test_a_checkpoint_that_lacks_weights_is_refused(model_dir: Path, tmp_path: Path) -> None:
    copied = tmp_path / "partial"
    shutil.copytree(model_dir, copied)
    weights = load_file(copied / "model.safetensors")
    lost = sorted(weights)[1]
    del weights[lost]
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"lacks weights of .*: {lost}"):
        load_language_model(str(copied), device="cpu", dtype="float32")


@pytest.mark.parametrize("device", ["meta", "nonsense"])
def test_a_device_that_holds_no_values_is_an_error(device: str, model_dir: Path) -> None:
    with pytest.raises(UserError, match=f"device: got '{device}'"):
        load_language_model(str(model_dir), device=device, dtype="float32")
