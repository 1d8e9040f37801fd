"""A GGUF file is a model like any other: what is in it is what is sampled from, trained and saved."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlif.conversion import convert as conversion
from rlif.conversion.command import run as run_convert
from rlif.conversion.convert import convert
from rlif.conversion.options import ConvertConfig
from rlif.errors import UserError
from rlif.models.gguf import gguf_file
from rlif.models.language_model import LanguageModel, load_language_model
from runs import MakeConfig, train

needs_gguf = pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="the package gguf is not installed")
IDS = torch.tensor([[3, 15, 4, 17, 5, 2]])


def load(path: Path) -> LanguageModel:
    return load_language_model(str(path), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny_gguf import make_qwen2, write_gguf

    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", make_qwen2())


@needs_gguf
def test_what_is_read_is_the_model_that_was_packed(packed: Path) -> None:
    from tiny_gguf import EOS, PAD, TEMPLATE, TURN, make_qwen2

    loaded = load(packed)
    assert torch.equal(loaded.model(IDS).logits, make_qwen2()(IDS).logits)
    assert loaded.eos_token_ids == (EOS, TURN)  # llama.cpp stops at both
    assert loaded.pad_token_id == PAD
    assert loaded.tokenizer.chat_template == TEMPLATE
    assert loaded.tokenizer("12+=3")["input_ids"] == [4, 5, 15, 6]
    assert loaded.tokenizer.decode([4, 5, 15, 6, TURN], skip_special_tokens=True) == "12+=3"


@needs_gguf
def test_a_file_whose_positions_are_stretched_says_that_the_model_is_another(tmp_path: Path) -> None:
    from tiny_gguf import make_qwen2, write_gguf

    with pytest.warns(UserWarning, match="scales the frequencies of its positions"):
        load(write_gguf(tmp_path / "stretched.gguf", make_qwen2(), stretched=4.0))


@needs_gguf
def test_a_converted_model_is_an_ordinary_one_with_the_logits_of_the_file(tmp_path: Path) -> None:
    from tiny_gguf import make_qwen2, write_gguf

    path = write_gguf(tmp_path / "packed.gguf", make_qwen2(), packed=True)
    run_convert(ConvertConfig(model=str(path), output_dir=tmp_path / "model"))
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    loaded = load(path)
    assert torch.equal(saved(IDS).logits, loaded.model(IDS).logits)
    assert not torch.equal(saved(IDS).logits, make_qwen2()(IDS).logits)  # 8 bits are not what they were packed from
    assert not hasattr(saved.config, "quantization_config")
    assert AutoTokenizer.from_pretrained(tmp_path / "model")("12+=3")["input_ids"] == [4, 5, 15, 6]
    assert load(tmp_path / "model").eos_token_ids == loaded.eos_token_ids
    assert (tmp_path / "model" / "config.yaml").read_text().count("packed.gguf") == 1
    with pytest.raises(UserError, match=r"^output_dir: .*model exists, expected a new directory$"):
        run_convert(ConvertConfig(model=str(path), output_dir=tmp_path / "model"))


@needs_gguf
@pytest.mark.parametrize("fault", [UserError("wrong"), KeyboardInterrupt()])
def test_a_conversion_that_does_not_end_leaves_nothing(
    fault: BaseException, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*facts: object) -> None:
        raise fault

    monkeypatch.setattr(conversion, "_check_same", fail)
    with pytest.raises(type(fault)):
        convert(str(packed), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@needs_gguf
@pytest.mark.parametrize("size", [4, 30, 200, -1000, -4])
def test_a_file_that_is_cut_short_says_so(size: int, packed: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(packed.read_bytes()[:size])
    with pytest.raises(
        UserError, match=r"^model: .*cut\.gguf of [\d,]+ bytes is cut short or damaged, expected a whole"
    ):
        load(path)


@needs_gguf
def test_a_model_that_changes_by_being_saved_is_refused(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = conversion._facts
    many = iter((0.0, 1e-6))
    monkeypatch.setattr(conversion, "_facts", lambda model: (f := facts(model)) | {"logits": f["logits"] + next(many)})
    with pytest.raises(UserError, match=r"gives other logits once it is saved and loaded again \(by \de-0[67]\)"):
        convert(str(packed), tmp_path / "model")
    assert not (tmp_path / "model").exists()


@needs_gguf
def test_an_adapter_that_was_trained_on_a_file_finds_it_again(packed: Path, make_config: MakeConfig) -> None:
    config = make_config(model=str(packed), lora_rank=4, max_steps=1)
    train(config)
    adapted = load(config.output_dir / "model")
    assert not hasattr(adapted.model, "peft_config")
    assert not torch.equal(adapted.model(IDS).logits, load(packed).model(IDS).logits)


def test_without_its_package_a_file_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF and more")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"is a GGUF file, for which there is no module gguf; pip install 'rlif\[gguf\]'$"
    ):
        load(tmp_path / "a.gguf")


def test_the_one_file_of_a_directory_is_its_model(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    (tmp_path / "mmproj-model.gguf").write_bytes(b"GGUF")  # what it sees with
    (tmp_path / "blob").write_bytes(b"GGUF")  # without the ending, as some programs keep them
    assert gguf_file(tmp_path) == tmp_path / "model.gguf"
    assert gguf_file(tmp_path / "blob") == tmp_path / "blob"
    (tmp_path / "config.json").write_text("{}")
    assert gguf_file(tmp_path) is None
    assert gguf_file(tmp_path / "model.gguf") == tmp_path / "model.gguf"


@pytest.mark.parametrize(
    ("files", "name", "message"),
    [
        ({"a.gguf": b"GGUF", "b.gguf": b"GGUF"}, "", r"has 2 GGUF files, a\.gguf, b\.gguf; expected the path of one"),
        ({"a.gguf": b"version https://git-lfs"}, "", "is no GGUF file: it begins with b'vers', expected b'GGUF'"),
        ({"a-00001-of-00002.gguf": b"GGUF"}, "", "is one part of a model in several files"),
        ({"model.safetensors": b"1234"}, "model.safetensors", "is a file and no GGUF, expected a model directory"),
        ({}, "missing.gguf", "which does not exist; expected a model directory, a GGUF file or a hub id"),
        ({"a.gguf": b"GGUF"}, "a.gguf", "cut short or damaged"),
    ],
)
def test_what_is_no_model_is_one_line(files: dict[str, bytes], name: str, message: str, tmp_path: Path) -> None:
    if message == "cut short or damaged":
        pytest.importorskip("gguf")
    for file, content in files.items():
        (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError, match=f"^model: .*{message}") as error:
        load(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_directory_in_safetensors_is_converted_too(model_dir: Path, tmp_path: Path) -> None:
    convert(str(model_dir), tmp_path / "model", dtype="bfloat16", max_shard_size="10KB")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 1
    assert load_language_model(str(tmp_path / "model"), device="cpu", dtype="bfloat16").model.dtype == torch.bfloat16
    with pytest.raises(UserError, match="max_shard_size: got 'many', expected a size such as 5GB"):
        convert(str(model_dir), tmp_path / "other", max_shard_size="many")
    shutil.rmtree(tmp_path / "model")
