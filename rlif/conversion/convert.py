"""Write a model that may be packed in a GGUF file, or lie in a LoRA adapter, as an ordinary directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from rich.console import Console

from rlif.errors import UserError
from rlif.files.directories import write_directory
from rlif.files.lock import Lock
from rlif.files.room import check_room
from rlif.models.language_model import LanguageModel, load_language_model
from rlif.options.record import check_new

# Tokens that both models are asked about, spread over the vocabulary.
NUM_TOKENS = 16
# Cut into tokens by both: numbers, spaces, words with signs, capitals, other alphabets, lines.
TEXT = " 12 + 345 = 357.  Don't stop, naïve CamelCase!\n\n\tx = [日本, ½]"


def convert(
    model: str,
    output_dir: Path,
    *,
    dtype: str = "float32",
    max_shard_size: str = "5GB",
    trust_remote_code: bool = False,
    console: Console | None = None,
    record: Callable[[Path], None] = lambda directory: None,
) -> None:
    """Write a model with its tokenizer as transformers saves them, and read it again to be sure.

    Args:
        model: as `rlif.load_language_model` takes it: a GGUF file, a LoRA adapter, …
        output_dir: directory to make; it appears when it is whole.
        dtype: "float32" or "bfloat16", of the weights.
        max_shard_size: bytes of one file of weights, as text such as "500MB".
        trust_remote_code: run the Python code that comes with the model.
        console: is told what goes on; None is told nothing.
        record: writes into the directory what made it, before it appears.

    Raises:
        UserError: bad input; no room to write; or what was written gives other logits than the model, which is then
            not kept.
    """
    check_new(output_dir)
    _check_shard_size(max_shard_size)

    def say(what: str) -> None:
        if console is not None:
            console.print(what, soft_wrap=True, markup=False, highlight=False)

    def load(name: str) -> LanguageModel:
        return load_language_model(name, device="cpu", dtype=dtype, trust_remote_code=trust_remote_code)

    with Lock(output_dir, beside=True) as lock:
        lock.make()
        check_new(output_dir)  # another process may have made it since
        say(f"Reading {model}")
        loaded = [load(model)]
        size = sum(weight.numel() * weight.element_size() for weight in loaded[0].model.parameters())
        check_room(output_dir, size)

        def write(directory: Path) -> None:
            before = loaded.pop()  # so that one model at a time is in memory
            facts = _facts(before)
            say(f"Writing {size / 1e9:.2f} GB to {output_dir}")
            before.model.save_pretrained(directory, max_shard_size=max_shard_size)
            before.tokenizer.save_pretrained(directory)
            kind = type(before.model).__name__
            del before
            say("Reading it again, to compare the logits")
            _check_same(facts, _facts(load(str(directory))), f"model: {model}", kind)
            record(directory)

        write_directory(output_dir, write, interruptible=True)


def _check_shard_size(max_shard_size: str) -> None:
    try:
        split_torch_state_dict_into_shards({"": torch.empty(1)}, max_shard_size=max_shard_size)
    except ValueError as error:
        raise UserError(f"max_shard_size: got {max_shard_size!r}, expected a size such as 5GB or 500MB") from error


@torch.no_grad()
def _facts(language_model: LanguageModel) -> dict[str, Any]:
    """What must not change: logits of tokens from all over the vocabulary, the end tokens, the chat template."""
    model = language_model.model
    count = min(language_model.vocab_size, model.get_input_embeddings().num_embeddings)
    tokens = torch.linspace(0, count - 1, NUM_TOKENS).long()[None]
    return {
        "logits": model(input_ids=tokens, use_cache=False).logits,
        "end tokens": language_model.eos_token_ids,
        "padding token": language_model.pad_token_id,
        "chat template": language_model.tokenizer.chat_template,
        f"way to cut {TEXT!r} into tokens": language_model.tokenizer(TEXT)["input_ids"],
    }


def _check_same(before: dict[str, Any], after: dict[str, Any], where: str, kind: str) -> None:
    """Refuse a model that is another once it is saved and loaded again, in whatever its facts are."""
    logits, again = before.pop("logits"), after.pop("logits")
    if not torch.equal(logits, again):
        raise UserError(
            f"{where} gives other logits once it is saved and loaded again (by {(logits - again).abs().max():.2g}), "
            f"expected the same: transformers does not save this {kind} as it is"
        )
    for name, value in before.items():
        if after[name] != value:
            raise UserError(
                f"{where} has another {name} once it is saved and loaded again, {after[name]!r}; expected {value!r}"
            )
