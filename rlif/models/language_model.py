"""Load a causal language model with its tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlif.doing import doing
from rlif.errors import UserError
from rlif.models.float32_head import keep_logits_in_float32
from rlif.models.loading import loading
from rlif.models.sources import check_model_path, read_model
from rlif.models.vocabulary import limit_vocabulary, num_columns
from rlif.options.groups import LoadingOptions


@dataclass(frozen=True)
class LanguageModel:
    """A model and what sampling from it needs to know."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    eos_token_ids: tuple[int, ...]
    """Every id that ends a completion: chat models have several. Empty: nothing does."""
    pad_token_id: int
    """Fills rows up to equal length. Masked wherever it stands, so it may be a token with a meaning of its own."""

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def vocab_size(self) -> int:
        """Columns of the logits."""
        return num_columns(self.model)

    def save(self, directory: Path) -> None:
        """Write a directory that AutoModelForCausalLM and AutoTokenizer load."""
        self.model.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)


def load_language_model(
    name: str,
    *,
    device: str,
    dtype: str,
    attn_implementation: str | None = None,
    logits_dtype: str | None = None,
    vocab_size: int | None = None,
    trust_remote_code: bool = False,
) -> LanguageModel:
    """Load a model and its tokenizer from a directory, a GGUF file, a LoRA adapter or the Hugging Face hub.

    Args:
        name: directory, file or hub id; an adapter is merged into its model.
        device: as torch names it, or "auto": cuda if there is one, else cpu.
        dtype: "float32" or "bfloat16", of the weights.
        attn_implementation: as transformers names it (eager, sdpa, flash_attention_2, …); None is its own choice.
        logits_dtype: "float32" keeps the logits in it, whoever asks the model for them; None: that of the weights.
        vocab_size: the logits are those of this many tokens, the first ones; None: of all columns of the head.
        trust_remote_code: run the Python code that comes with the model, where it is of no kind that transformers has.

    Raises:
        UserError: no such model, no tokenizer, code of its own that nobody trusts, a device that torch cannot use, a
            head whose logits cannot be kept in float32, or one with fewer columns than are asked for.
    """
    check_model_path(name)
    target = resolve_device(device)
    with doing(f"loading {name}"), loading("model", name, can_trust=True):
        model, tokenizer = read_model(
            name,
            dtype=getattr(torch, dtype),
            attn_implementation=attn_implementation,
            trust_remote_code=trust_remote_code,
        )
    # Sampling and scoring must see the same distribution, or the on-policy ratio is not one: no dropout, ever.
    model.to(target).eval()
    if logits_dtype == "float32":
        keep_logits_in_float32(model)
    if vocab_size is not None:
        limit_vocabulary(model, vocab_size)

    end = model.generation_config.eos_token_id if model.generation_config is not None else None
    ends = list(end) if isinstance(end, list | tuple) else [end]
    stated = [token for token in [*ends, tokenizer.eos_token_id] if token is not None]
    if not all(type(token) is int and token >= 0 for token in stated):
        raise UserError(f"model: {name} ends completions with {stated!r}, expected token ids")
    if isinstance(tokenizer.model_max_length, bool) or not isinstance(tokenizer.model_max_length, int | float):
        raise UserError(f"model: {name} has model_max_length {tokenizer.model_max_length!r}, expected a number")
    eos_token_ids = tuple(dict.fromkeys(stated))
    # Tokens that were added to the tokenizer alone have no embedding, and those beyond the head are never drawn.
    num_embeddings = model.get_input_embeddings().num_embeddings
    if eos_token_ids and num_columns(model) <= min(eos_token_ids) < num_embeddings:
        raise UserError(
            f"vocab_size: got {num_columns(model)} columns, but {name} ends completions with token {eos_token_ids[0]}; "
            "expected a head that can name it"
        )
    if eos_token_ids and min(eos_token_ids) >= num_embeddings:
        raise UserError(
            f"model: {name} ends completions with token {eos_token_ids[0]}, but has embeddings for {num_embeddings} "
            "tokens; expected a tokenizer that belongs to the model"
        )
    eos_token_ids = tuple(token for token in eos_token_ids if token < num_embeddings)
    candidates = (tokenizer.pad_token_id, *eos_token_ids, 0)
    pad_token_id = next(token for token in candidates if token is not None and token < num_embeddings)
    return LanguageModel(model, tokenizer, eos_token_ids, pad_token_id)


def load_with_options(options: LoadingOptions, name: str, *, device: str | None = None) -> LanguageModel:
    """`load_language_model` as a command's options say, but for the device if another one is given."""
    return load_language_model(
        name,
        device=device or options.device,
        dtype=options.dtype,
        attn_implementation=options.attn_implementation,
        logits_dtype=options.logits_dtype,
        vocab_size=options.vocab_size,
        trust_remote_code=options.trust_remote_code,
    )


def resolve_device(device: str) -> torch.device:
    """Find the torch device of that name; "auto" is cuda if there is one, else cpu.

    Raises:
        UserError: torch does not know the device, or cannot put a tensor on it.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=device).item()  # some devices, such as meta, hold no values
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise UserError(f"device: got {device!r}, expected a device that torch can use here: {reason}") from error


def positions(mask: Tensor) -> Tensor:
    """Count the True places of a (N, S) mask from 0: (N, S) position ids, 0 in padding on the left."""
    return (mask.cumsum(dim=1) - 1).clamp(min=0)
