"""The base model is an ordinary Hugging Face directory, made once for each configuration, whole or not at all."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, Qwen3ForCausalLM

from hurt import wait_until
from rlif.errors import UserError
from rlif.files.lock import Lock
from rlif.tasks import pretraining
from rlif.tasks.arithmetic import ArithmeticConfig, teacher_solutions
from rlif.tasks.built_in_models import base_model_dir, pretrained_base
from rlif.tasks.options import BaseModelConfig
from rlif.tasks.pretraining import IGNORED, solution_batches
from rlif.tasks.tokenizer import build_tokenizer

TINY = BaseModelConfig(
    task=ArithmeticConfig(digits=1), hidden_size=64, num_hidden_layers=1, pretraining_steps=2, pretraining_batch_size=4
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    directory = tmp_path / "cache"
    monkeypatch.setenv("RLIF_CACHE_DIR", str(directory))
    return directory


def load(directory: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(directory)


def test_transformers_loads_model_and_tokenizer(cache: Path) -> None:
    directory = pretrained_base(TINY)
    assert directory.parent == cache
    model, tokenizer = load(directory), AutoTokenizer.from_pretrained(directory)
    assert isinstance(model, Qwen3ForCausalLM)
    assert model.config.vocab_size == len(tokenizer)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id
    assert (directory / "model.safetensors").is_file()
    output = model.generate(**tokenizer("3+4\n", return_tensors="pt"), max_new_tokens=3)
    assert output.shape[0] == 1


def test_a_cached_model_is_not_pretrained_again(monkeypatch: pytest.MonkeyPatch) -> None:
    directory = pretrained_base(TINY)

    def never(*_: object) -> None:
        raise AssertionError("pretrained again")

    monkeypatch.setattr(pretraining, "pretrain", never)
    assert pretrained_base(TINY) == directory


def test_every_part_of_the_configuration_has_its_own_model() -> None:
    changes = [
        replace(TINY, **{field.name: 2 * getattr(TINY, field.name) + 64})
        for field in fields(TINY)
        if field.name not in ("task", "label_smoothing")
    ]
    changes += [replace(TINY, label_smoothing=0.5), replace(TINY, task=replace(TINY.task, error_rate=0.5))]
    assert len({base_model_dir(config) for config in [TINY, *changes]}) == len(changes) + 1


@pytest.mark.parametrize("moment", ["pretraining", "saving"])
def test_an_interrupted_pretraining_leaves_nothing(moment: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object, **_: object) -> None:
        if moment == "saving":
            directory = arguments[1]
            assert isinstance(directory, Path)
            assert directory.is_dir()
            (directory / "config.json").write_text("{}")
        raise KeyboardInterrupt

    if moment == "saving":
        monkeypatch.setattr(Qwen3ForCausalLM, "save_pretrained", interrupt)
    else:
        monkeypatch.setattr(Qwen3ForCausalLM, "forward", interrupt)
    with pytest.raises(KeyboardInterrupt):
        pretrained_base(TINY)
    assert list(cache.iterdir()) == []
    monkeypatch.undo()
    monkeypatch.setenv("RLIF_CACHE_DIR", str(cache))
    assert load(pretrained_base(TINY))


def test_of_two_processes_at_once_one_waits_for_the_model_of_the_other(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads here: a lock excludes every other user of the directory, in this process or in another."""
    pretrain: Callable[..., object] = pretraining.pretrain
    waiting = Console(file=io.StringIO(), width=200)
    made = []

    def pretrain_while_another_waits(*arguments: object) -> object:
        made.append(arguments)
        other.start()
        wait_until(lambda: "Waiting for process" in waiting.file.getvalue())  # type: ignore[attr-defined]
        return pretrain(*arguments)

    found: list[Path] = []
    other = threading.Thread(target=lambda: found.append(pretrained_base(TINY, waiting)))
    monkeypatch.setattr(pretraining, "pretrain", pretrain_while_another_waits)
    directory = pretrained_base(TINY)
    other.join()
    assert found == list(cache.iterdir()) == [directory]
    assert len(made) == 1
    assert load(directory)


@pytest.mark.parametrize("kind", ["flipped", "cut", "gone", "unsealed"])
def test_a_cached_model_that_is_damaged_is_made_again(kind: str) -> None:
    weights = pretrained_base(TINY) / "model.safetensors"
    whole = weights.read_bytes()
    if kind == "unsealed":  # as 0.1.0 left them: nobody knows what it was
        (weights.parent / "manifest.json").unlink()
    elif kind == "gone":
        weights.unlink()
    else:
        weights.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:] if kind == "flipped" else whole[:100])
    with pytest.warns(UserWarning, match=r"base-\w+ is not as it was made \(.*\): it is made again"):
        assert pretrained_base(TINY) == weights.parent
    assert weights.read_bytes() == whole


def test_what_a_killed_process_left_in_the_cache_is_removed_and_what_another_makes_is_not(cache: Path) -> None:
    for name in ("base-1", "base-2", "base-3-replaced"):
        (cache / f".{name}-unfinished").mkdir(parents=True)
    for name in ("unfinished-old", "unfinished-new"):
        (cache / name).mkdir()
    os.utime(cache / "unfinished-old", (0, 0))
    (cache / ".base-1.lock").write_text("process 1 on host")  # of a process that has ended
    with Lock(cache / "base-2", beside=True):
        directory = pretrained_base(TINY)
        assert sorted(path.name for path in cache.glob("*unfinished*")) == [".base-2-unfinished", "unfinished-new"]
    assert directory.is_dir()


def test_the_configuration_decides_the_weights_and_the_random_state_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = load(pretrained_base(TINY)).state_dict()
    other_seed = load(pretrained_base(replace(TINY, seed=1))).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    monkeypatch.setenv("RLIF_CACHE_DIR", str(tmp_path / "elsewhere"))
    again = load(pretrained_base(TINY)).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other_seed[name]) for name in first)


def test_the_loss_is_on_the_solution_and_its_end_only() -> None:
    tokenizer = build_tokenizer()
    pairs = list(islice(teacher_solutions(ArithmeticConfig(subtraction=True), seed=0), 8))
    input_ids, attention_mask, labels = next(solution_batches(pairs, tokenizer, batch_size=8))
    assert input_ids.shape == attention_mask.shape == labels.shape
    for row, (prompt, text) in enumerate(pairs):
        real = input_ids[row][attention_mask[row].bool()]
        assert tokenizer.decode(real) == prompt + text + tokenizer.eos_token
        assert tokenizer.decode(labels[row][labels[row] != IGNORED]) == text + tokenizer.eos_token
        assert attention_mask[row].tolist() == sorted(attention_mask[row].tolist(), reverse=True)


def test_pretraining_teaches() -> None:
    pairs = list(islice(teacher_solutions(TINY.task, seed=1), 64))
    input_ids, attention_mask, labels = next(solution_batches(pairs, build_tokenizer(), batch_size=64))

    def loss(config: BaseModelConfig) -> float:
        model = load(pretrained_base(config))
        return model(input_ids=input_ids, attention_mask=attention_mask, labels=labels).loss.item()

    # The form of a solution alone (where "=", line break and marker stand) is worth more than 1 of log(19) = 2.9 nats.
    assert loss(replace(TINY, pretraining_steps=60, pretraining_batch_size=16)) < loss(TINY) - 1.0


def test_progress_is_shown_where_a_console_is_given() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    pretrained_base(TINY, console)
    assert isinstance(console.file, io.StringIO)
    assert "2/2" in console.file.getvalue()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_size", 96),
        ("hidden_size", 0),
        ("num_hidden_layers", 0),
        ("pretraining_steps", 0),
        ("pretraining_batch_size", 0),
        ("pretraining_learning_rate", 0.0),
        ("label_smoothing", 1.0),
    ],
)
def test_a_bad_value_is_refused_by_name(name: str, value: object, cache: Path) -> None:
    with pytest.raises(UserError, match=f"^{name}: got {value}, expected"):
        pretrained_base(replace(TINY, **{name: value}))  # type: ignore[arg-type]
    assert not cache.exists()


def test_a_cache_that_cannot_be_made_is_refused_by_name(cache: Path) -> None:
    cache.write_text("a file where the directory should be")
    with pytest.raises(UserError, match=r"^RLIF_CACHE_DIR: cannot make .*cache"):
        pretrained_base(TINY)
