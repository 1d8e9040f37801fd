"""Tiny models and files that the tests of the training loop share. Nothing is downloaded."""

from __future__ import annotations

import copy
import json
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from rlif.config import TrainConfig
from rlif.models import LanguageModel, load_language_model
from rlif.reference import Reference
from rlif.scoring import Scorer

CHARACTERS = "0123456789+=# \n"
PAD, EOS, UNKNOWN = 0, 1, 2
# The metrics that differ from run to run.
TIMES = {"step_seconds", "sampling_seconds", "tokens_per_second"}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads cost such small models more than they give, above all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character, ids 0 to 2 for padding, end and unknown."""
    vocab = {"<pad>": PAD, "<eos>": EOS, "<unk>": UNKNOWN} | {c: i for i, c in enumerate(CHARACTERS, start=3)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def make_model(architecture: str = "qwen3") -> PreTrainedModel:
    """A random model of two layers. Its large initial weights make distributions that are far from uniform."""
    torch.manual_seed(0)
    sizes = dict(
        vocab_size=3 + len(CHARACTERS),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
        initializer_range=0.3,
        pad_token_id=PAD,
        eos_token_id=EOS,
        bos_token_id=None,
    )
    if architecture == "llama":
        return LlamaForCausalLM(LlamaConfig(**sizes))
    if architecture == "mistral":  # the window is shorter than prompt and completion together
        return MistralForCausalLM(MistralConfig(**sizes, sliding_window=6))
    return Qwen3ForCausalLM(Qwen3Config(**sizes, tie_word_embeddings=True))


@pytest.fixture(scope="session", params=["qwen3"])
def model_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with its tokenizer, as transformers saves them."""
    directory = tmp_path_factory.mktemp("models") / request.param
    make_model(request.param).save_pretrained(directory)
    make_tokenizer().save_pretrained(directory)
    return directory


@pytest.fixture
def language_model(model_dir: Path) -> LanguageModel:
    return load_language_model(str(model_dir), device="cpu", dtype="float32")


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Within, no file can grow beyond that many bytes: writing fails as it does where the disk is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def frozen_copy(model: PreTrainedModel) -> PreTrainedModel:
    """A copy that never changes."""
    return copy.deepcopy(model).eval().requires_grad_(False)


def frozen_reference(model: PreTrainedModel) -> Reference:
    """The model as it is now, as a reference."""
    return Reference(Scorer(frozen_copy(model), None))


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., Path]:
    """Write rows as a JSONL file and return its path."""

    def write(*rows: object, name: str = "data.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


@pytest.fixture
def make_config(model_dir: Path, write_jsonl: Callable[..., Path], tmp_path: Path) -> Callable[..., TrainConfig]:
    """A run of a few small steps on sums of two digits; keyword arguments change fields."""
    rows = [{"prompt": f"{a}+{b}=", "answer": a + b} for a in (1, 20) for b in (3, 4, 50)]

    def make(**changes: object) -> TrainConfig:
        settings: dict[str, object] = {
            "model": str(model_dir),
            "data": write_jsonl(*rows),
            "run_dir": tmp_path / "run",
            "max_steps": 2,
            "prompts_per_step": 3,
            "num_generations": 4,
            "max_completion_length": 6,
            "eval_steps": 1,
            "learning_rate": 1e-3,
            "device": "cpu",
            "guard": "off",  # it has tests of its own, and the others their six prompts for themselves
        }
        return TrainConfig(**(settings | changes))  # type: ignore[arg-type]

    return make
