"""The examples run, print what they say, and do it right; so do the lines for others' code in docs/kernels.md."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM, Trainer, TrainingArguments

from pages import ROOT, snippet
from rlif.files.directories import write_directory
from rlif.tasks.built_in_models import base_model_dir
from rlif.tasks.options import BaseModelConfig
from rlif.tasks.tokenizer import build_tokenizer
from rlif_kernels import reference


@pytest.fixture(autouse=True)
def one_thread():
    """Threads cost such small models more than they give."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(name: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
    load(name).main()
    return capsys.readouterr().out


def save_model(directory: Path) -> Path:
    """A random model with the tokenizer of the built-in sums."""
    tokenizer = build_tokenizer()
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, initializer_range=0.3, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def test_the_grpo_step_makes_the_policy_surer(capsys, monkeypatch) -> None:
    lines = run("grpo_step", capsys, monkeypatch).splitlines()
    rows = [[float(number) for number in line.split()] for line in lines[1:-1]]
    assert [row[0] for row in rows] == list(range(8))
    assert rows[0][3] == 0  # the start model is the reference
    assert rows[-1][1] > rows[0][1]
    assert "17 MB" in lines[-1]  # 4 prompts, 8 completions of 16 tokens, 8192 columns of 4 bytes


def test_the_grpo_step_takes_a_users_model_and_prompts_of_any_length(tmp_path: Path, capsys, monkeypatch) -> None:
    model = save_model(tmp_path)
    arguments = ("--model", str(model), "--prompt", "12+3=", "--prompt", "456+789=", "--steps", "2")
    out = run("grpo_step", capsys, monkeypatch, *arguments)
    assert out.count("\n") == 4
    assert "nan" not in out


def test_hidden_states_of_a_padded_prompt_are_those_of_the_prompt_alone() -> None:
    example = load("grpo_step")
    model = example.random_model().eval()
    ids = torch.randint(2, 8192, (1, 9))
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.int64), ids], dim=1)
    mask = (torch.arange(12) >= 3).long()[None]
    alone = example.hidden_states(model, ids, torch.ones_like(ids), prompt_length=5)
    among_padding = example.hidden_states(model, padded, mask, prompt_length=8)
    # float32 sums in another order, of values of size 10.
    torch.testing.assert_close(among_padding, alone, atol=1e-4, rtol=1e-4)


def test_best_of_n_counts_right_answers_of_the_built_in_model(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("RLIF_CACHE_DIR", str(tmp_path))
    # Random, and where the one would be that takes minutes to pretrain; which is not to happen unnoticed.
    write_directory(base_model_dir(BaseModelConfig()), save_model)
    monkeypatch.delattr("rlif.tasks.pretraining.pretrain")
    out = run("best_of_n", capsys, monkeypatch, "--n", "4", "--max-new-tokens", "12")
    scores = [float(score) for score in re.findall(r"^ +(\d\.\d{3})  '", out, re.MULTILINE)]
    assert len(scores) == 4
    assert scores == sorted(scores, reverse=True)
    assert re.search(r"a sample +\d+\.\d%\n  the surest of 4 +\d+\.\d%\n  any of them +\d+\.\d%", out)


def test_best_of_n_scores_are_the_mean_self_certainty_of_each_sample(tmp_path: Path, capsys, monkeypatch) -> None:
    example = load("best_of_n")
    directory = save_model(tmp_path)
    model, tokenizer = Qwen3ForCausalLM.from_pretrained(directory).eval(), build_tokenizer()
    prompts, seed = ["1+2=", "123+456="], 3
    torch.manual_seed(seed)
    texts, scores = example.sample_with_scores(model, tokenizer, prompts, 3, 5)
    torch.manual_seed(seed)
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    sampled = model.generate(**inputs, do_sample=True, top_k=0, num_return_sequences=3, max_new_tokens=5)
    lengths = inputs["attention_mask"].sum(dim=1).repeat_interleave(3)
    width = inputs["input_ids"].shape[1]
    texts = [text for group in texts for text in group]
    for row, length, text, score in zip(sampled, lengths, texts, scores.flatten(), strict=True):
        assert tokenizer.decode(row[width:], skip_special_tokens=True) == text
        ends = (row[width:] == tokenizer.eos_token_id).nonzero()
        alone = row[width - length : width + int(ends[0]) + 1 if len(ends) else None]
        with torch.no_grad():
            logits = model(alone[None]).logits[0, length - 1 : -1]
        expected = reference.token_stats(logits, alone[length:], outputs=("self_certainty",)).self_certainty.mean()
        torch.testing.assert_close(score, expected, atol=1e-4, rtol=1e-4)  # as above
    assert run("best_of_n", capsys, monkeypatch, "--model", str(directory), "--prompt", "1+2=", "--n", "2")


def test_best_of_n_counts_nothing_after_any_of_a_models_end_tokens(tmp_path: Path) -> None:
    model, tokenizer = Qwen3ForCausalLM.from_pretrained(save_model(tmp_path)).eval(), build_tokenizer()
    other_end = 5
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, other_end]
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    torch.manual_seed(0)
    sampled = []
    generate = model.generate
    model.generate = lambda *args, **kwargs: sampled.append(generate(*args, **kwargs)) or sampled[0]
    _, scores = load("best_of_n").sample_with_scores(model, tokenizer, ["1+2="], 16, 12)
    ended = 0
    for row, score in zip(sampled[0], scores[0], strict=True):
        ends = (row[4:] == other_end).nonzero()
        if len(ends) == 0:
            continue
        ended += 1
        alone = row[: 4 + int(ends[0]) + 1]
        with torch.no_grad():
            logits = model(alone[None]).logits[0, 3:-1]
        expected = reference.token_stats(logits, alone[4:], outputs=("self_certainty",)).self_certainty.mean()
        torch.testing.assert_close(score, expected, atol=1e-4, rtol=1e-4)
    assert ended


def test_the_grpo_step_samples_from_the_policy_whatever_its_generation_config_says(
    tmp_path: Path, capsys, monkeypatch
) -> None:
    model = Qwen3ForCausalLM.from_pretrained(save_model(tmp_path))
    arguments = ("--model", str(tmp_path), "--prompt", "1+2=", "--steps", "1")
    plain = run("grpo_step", capsys, monkeypatch, *arguments)
    model.generation_config.update(do_sample=True, top_p=0.3, top_k=2, temperature=0.2, repetition_penalty=1.5)
    model.generation_config.save_pretrained(tmp_path)
    assert run("grpo_step", capsys, monkeypatch, *arguments) == plain


@pytest.mark.slow
def test_the_divided_head_is_the_whole_one() -> None:
    """In processes of its own, as a user starts it."""
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "tensor_parallel_head.py"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    differences = [float(value) for value in re.findall(r"^  (\d\.\de[-+]\d+)  ", done.stdout, re.MULTILINE)]
    assert len(differences) == 2 * 5
    # Log-probabilities of size 30 in float32, and gradients of size 1.
    assert max(differences) < 2e-5


def function_of_the_page(name: str):
    namespace: dict = {}
    exec(snippet("docs/kernels.md", f"def {name}("), namespace)
    return namespace[name]


def test_the_loss_for_trainer_is_its_own_with_an_entropy_bonus(tmp_path: Path) -> None:
    model = Qwen3ForCausalLM.from_pretrained(save_model(tmp_path / "model"))
    ids = torch.randint(3, 16, (4, 7))
    labels = ids.masked_fill(torch.rand(4, 7) < 0.3, -100)
    rows = [{"input_ids": row, "labels": label} for row, label in zip(ids, labels, strict=True)]
    arguments = TrainingArguments(
        output_dir=tmp_path, max_steps=1, per_device_train_batch_size=4, logging_steps=1, report_to=[], use_cpu=True,
        max_grad_norm=0.0, disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    with torch.no_grad():
        outputs = model(ids, labels=labels)
    stats = reference.token_stats(outputs.logits[:, :-1], labels[:, 1:])
    tokens = (labels[:, 1:] != -100).sum()
    loss = function_of_the_page("loss_with_entropy_bonus")
    trainer = Trainer(model, arguments, train_dataset=rows, compute_loss_func=loss)
    trainer.train()
    expected = outputs.loss - 0.01 * stats.entropy.sum() / tokens
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected.item(), abs=1e-4)  # it is logged rounded


def test_the_line_for_openrlhf_has_its_signature_and_values() -> None:
    """OpenRLHF needs CUDA to install. Its function (openrlhf/models/utils.py): log-softmax of the logits divided by the
    temperature, at the labels; (..., V) logits and (...) labels to (...) log-probabilities."""
    function = function_of_the_page("log_probs_from_logits")
    logits, labels = torch.randn(2, 5, 64), torch.randint(64, (2, 5))
    before = logits.clone()
    for arguments in ({}, {"temperature": 0.7}):
        expected = (logits / arguments.get("temperature", 1.0)).log_softmax(-1).gather(-1, labels[..., None])[..., 0]
        torch.testing.assert_close(function(logits, labels, **arguments), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(logits, before, atol=0, rtol=0)
