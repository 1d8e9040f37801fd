"""What may stand where a model is asked for: a directory, a GGUF file, a LoRA adapter, or a hub id."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HFValidationError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from rlif.errors import UserError
from rlif.files.hub import HUB_SECONDS, ask_hub
from rlif.models.adapters import base_of, is_adapter, merged
from rlif.models.gguf import gguf_file, load_gguf
from rlif.models.loading import exists, path_or_id

# AutoTokenizer does not fail where there is no tokenizer: it makes an empty one of the model's usual kind.
TOKENIZER_FILES = ("*token*", "vocab*", "*.model", "tekken.json")
EXPECTED = "expected a model directory, a GGUF file or a hub id"


def check_model_path(name: str, argument: str = "model", *, adapters: tuple[Path, ...] = ()) -> None:
    """Find fault with what is here by that name, or on the Hugging Face hub, without loading it.

    Args:
        name: of a model.
        argument: that has it, for messages.
        adapters: directories of those that led to this name.

    Raises:
        UserError: the path does not exist, or has no model or no tokenizer in it; or the hub has no model of that name,
            or is out of reach, and the model was not downloaded before.
    """
    path = Path(name).expanduser()
    if not name or not exists(name):
        looks_local = (
            name.startswith((".", "/", "~")) or name.count("/") > 1 or name.endswith(("/", ".gguf")) or not name
        )
        if looks_local:
            raise UserError(f"{argument}: got {name!r}, which does not exist; {EXPECTED}")
        _check_hub_id(name, f"{argument}: got {name!r}, which is no model here")
        return
    if gguf_file(path, argument) is not None:
        return
    if not path.is_dir():
        raise UserError(f"{argument}: {name} is a file and no GGUF, {EXPECTED}")
    if is_adapter(path):
        if path.resolve() in adapters:
            raise UserError(f"{argument}: {name} is an adapter of itself, expected a model behind it")
        base = base_of(path, argument)
        check_model_path(base, f"{argument}: {name} is an adapter, its base", adapters=(*adapters, path.resolve()))
        return
    if not (path / "config.json").is_file():
        raise UserError(f"{argument}: {name} has no config.json, expected a directory written by save_pretrained")
    if not has_tokenizer(path):
        raise UserError(
            f"{argument}: {name} has no tokenizer, expected its files beside the model's, as by "
            "tokenizer.save_pretrained(...)"
        )


def _check_hub_id(name: str, missing: str) -> None:
    try:
        if any(isinstance(try_to_load_from_cache(name, file), str) for file in ("config.json", "adapter_config.json")):
            return  # transformers asks whether there is a newer one, and does without an answer
        url = hf_hub_url(name, "config.json")
    except HFValidationError as error:
        raise UserError(f"{missing}, and no name on the Hugging Face hub; {EXPECTED}") from error

    def ask() -> None:
        with suppress(EntryNotFoundError):  # of an adapter, say: the hub has it
            get_hf_file_metadata(url, timeout=HUB_SECONDS)

    ask_hub(ask, missing, "model")


def has_tokenizer(path: Path) -> bool:
    """Tell whether a directory has files of a tokenizer."""
    return any(any(path.glob(pattern)) for pattern in TOKENIZER_FILES)


def read_model(
    name: str, *, dtype: torch.dtype, attn_implementation: str | None, trust_remote_code: bool
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Read a model and its tokenizer from wherever they are, on the CPU.

    An adapter is merged: in float32, and rounded once. Its directory may have a tokenizer of its own.

    Args:
        name: that `check_model_path` has nothing against.
        dtype: of the weights.
        attn_implementation: as transformers names it; None is its own choice.
        trust_remote_code: run the Python code that comes with the model.

    Raises:
        UserError: weights are missing, or what is there is of no kind that can be read.
        Exception: whatever transformers says of it; see `rlif.models.loading.loading`.
    """
    path = Path(name).expanduser()
    if exists(name) and path.is_dir() and is_adapter(path):
        base, tokenizer = read_model(
            base_of(path),
            dtype=torch.float32,
            attn_implementation=attn_implementation,
            trust_remote_code=trust_remote_code,
        )
        if has_tokenizer(path):
            tokenizer = AutoTokenizer.from_pretrained(str(path), trust_remote_code=trust_remote_code)
        model = merged(base, path)
        _round(model, dtype)
        model.name_or_path = model.config.name_or_path = str(path)
        return model, tokenizer
    if exists(name) and (file := gguf_file(path)) is not None:
        model, tokenizer, info = load_gguf(file, dtype=dtype, attn_implementation=attn_implementation)
    else:
        tokenizer = AutoTokenizer.from_pretrained(path_or_id(name), trust_remote_code=trust_remote_code)
        model, info = AutoModelForCausalLM.from_pretrained(
            path_or_id(name),
            trust_remote_code=trust_remote_code,
            dtype=dtype,
            attn_implementation=attn_implementation,
            use_safetensors=True,  # a pickle may run code
            output_loading_info=True,
        )
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise UserError(
            f"model: {name} lacks weights of {type(model).__name__}, which would start at random: "
            f"{', '.join(missing[:3])} ({len(missing)} in all)"
        )
    return model, tokenizer


@torch.no_grad()
def _round(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Bring a model's float32 weights to a dtype, as transformers does in loading one.

    That is: all that is saved, but for what its class wants in float32. `model.to` would round what is computed anew
    for each model too, such as the frequencies of its positions.
    """
    strict = [re.compile(rf"(^|\.){re.escape(each)}($|\.)") for each in model._keep_in_fp32_modules_strict or ()]
    buffers = dict(model.named_buffers())
    saved = {name: buffers[name] for name in model.state_dict().keys() & buffers.keys()}
    for name, weight in [*model.named_parameters(), *saved.items()]:
        if weight.is_floating_point() and not any(each.search(name) for each in strict):
            weight.data = weight.data.to(dtype)
