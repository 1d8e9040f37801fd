"""What goes wrong in the field: each one clear error, and nothing that was computed is lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BertConfig, BertLMHeadModel, MambaConfig, MambaForCausalLM

from rlif.data.prompts import read_prompts
from rlif.errors import UserError
from rlif.models.language_model import load_language_model
from rlif.rewards.advantages import group_advantages
from rlif.rollouts.decoding_check import check_decoding
from runs import MakeConfig, train
from tiny_models import files_of_at_most


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


def test_a_checkpoint_that_lacks_weights_is_refused(model_dir: Path, tmp_path: Path) -> None:
    copied = tmp_path / "partial"
    shutil.copytree(model_dir, copied)
    weights = load_file(copied / "model.safetensors")
    lost = sorted(weights)[1]
    del weights[lost]
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"lacks weights of .*: {lost}"):
        load_language_model(str(copied), device="cpu", dtype="float32")


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


@pytest.mark.parametrize(("written", "gold"), [("0.00001", "0.00001"), ("1e16", "10000000000000000"), ("7", "7")])
def test_a_number_as_gold_answer_is_read_as_it_stands(written: str, gold: str, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(f'{{"prompt": "x", "answer": {written}}}\n')
    assert read_prompts(path)[0].answer == gold


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"prompt": "a\\ud800b"}', "half a surrogate pair"),
        ('{"prompt": "x", "answer": "a\\ud800b"}', "half a surrogate pair"),
        ('{"prompt": "x", "answer": NaN}', "NaN is not JSON"),
        ('{"prompt": "x", "answer": "  "}', "no `answer`"),
        ('{"prompt": "x", "answer": "#### "}', "no `answer`"),
        (json.dumps({"prompt": "x"})[:-1] + ', "answer": ' + "9" * 5000 + "}", None),
    ],
)
def test_odd_lines_are_one_error_that_names_the_line(row: str, message: str | None, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(row + "\n")
    if message is None:
        assert len(read_prompts(path, need_answers=True)[0].answer) == 5000
    else:
        with pytest.raises(UserError, match=f"line 1.*{message}"):
            read_prompts(path, need_answers=True)


def test_a_group_of_equal_rewards_is_not_pushed_anywhere() -> None:
    assert (group_advantages(torch.full((8,), -4.7), 8) == 0).all()  # whose mean is not exactly -4.7
    assert group_advantages(torch.full((8,), torch.inf), 8).isnan().all()


@pytest.mark.parametrize("device", ["meta", "nonsense"])
def test_a_device_that_holds_no_values_is_an_error(device: str, model_dir: Path) -> None:
    with pytest.raises(UserError, match=f"device: got '{device}'"):
        load_language_model(str(model_dir), device=device, dtype="float32")
