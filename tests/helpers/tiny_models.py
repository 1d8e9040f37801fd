"""Tiny models, what the tests of the training loop know of them, and a disk that is full. Nothing is downloaded."""

from __future__ import annotations

import copy
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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

from rlif.scoring.scorer import Scorer
from rlif.scoring.start_model import StartModel

CHARACTERS = "0123456789+=# \n"
PAD, EOS, UNKNOWN = 0, 1, 2
# The metrics that differ from run to run.
TIMES = {"step_seconds", "sampling_seconds", "tokens_per_second"}
# Two layers. Large initial weights make distributions that are far from uniform.
SIZES = dict(
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


def make_tokenizer(characters: str = CHARACTERS, chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """One token a character, ids 0 to 2 for padding, end and unknown."""
    vocab = {"<pad>": PAD, "<eos>": EOS, "<unk>": UNKNOWN} | {c: i for i, c in enumerate(characters, start=3)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        chat_template=chat_template,
    )


def make_model(architecture: str = "qwen3") -> PreTrainedModel:
    """A random model of `SIZES`."""
    torch.manual_seed(0)
    if architecture == "llama":
        return LlamaForCausalLM(LlamaConfig(**SIZES))
    if architecture == "mistral":  # the window is shorter than prompt and completion together
        return MistralForCausalLM(MistralConfig(**SIZES, sliding_window=6))
    return Qwen3ForCausalLM(Qwen3Config(**SIZES, tie_word_embeddings=True))


def save_model(directory: Path, architecture: str = "qwen3") -> Path:
    """Save a random model with its tokenizer, as transformers saves them, and return where."""
    make_model(architecture).save_pretrained(directory)
    make_tokenizer().save_pretrained(directory)
    return directory


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Within, torch computes on one thread: more cost such small models more than they give."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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


def frozen_start_model(model: PreTrainedModel) -> StartModel:
    """The model as it is now, as a start model."""
    return StartModel(Scorer(frozen_copy(model), None))
