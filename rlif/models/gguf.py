"""GGUF files, the format of llama.cpp, read as ordinary models: their weights are unpacked into floating point.

What comes out is what the file holds: weights of 4 bits are not what they were before somebody packed them.
"""

from __future__ import annotations

import importlib.util
import re
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from rlif.errors import UserError
from rlif.progress_bar import bar

MAGIC = b"GGUF"
PART = re.compile(r"-\d{5}-of-\d{5}\.gguf", re.IGNORECASE)
# The tokens at which llama.cpp ends a text: its end, the end of a turn, and that of a message.
ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")


def gguf_file(path: Path, argument: str = "model") -> Path | None:
    """Find the GGUF file that a path stands for: itself, or the only one in a directory without a config.json.

    Args:
        path: that exists.
        argument: that named it, for messages.

    Raises:
        UserError: there are several, it is one part of several, or no GGUF file though it is called one.
    """
    if path.is_dir():
        if (path / "config.json").is_file() or (path / "adapter_config.json").is_file():
            return None
        # Beside a model that sees there is the file of what it sees with, which is no model.
        files = sorted(file for file in path.glob("*.gguf") if not file.name.lower().startswith("mmproj"))
        if len(files) > 1 and not PART.search(files[0].name):
            raise UserError(
                f"{argument}: {path} has {len(files)} GGUF files, {', '.join(file.name for file in files[:3])}"
                f"{', …' if len(files) > 3 else ''}; expected the path of one of them"
            )
        if not files:
            return None
        path = files[0]
    elif not path.is_file():
        return None
    with path.open("rb") as file:
        begins = file.read(len(MAGIC))
    if begins != MAGIC:
        if path.suffix.lower() == ".gguf":
            raise UserError(f"{argument}: {path} is no GGUF file: it begins with {begins!r}, expected {MAGIC!r}")
        return None
    if PART.search(path.name):
        raise UserError(
            f"{argument}: {path} is one part of a model in several files, expected all in one: "
            "llama-gguf-split --merge joins them"
        )
    return path


def load_gguf(
    path: Path, *, dtype: torch.dtype, attn_implementation: str | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, Any]]:
    """Unpack a GGUF file into a model of transformers, with the tokenizer, the chat template and the end tokens in it.

    Args:
        path: of the file.
        dtype: of the weights, which are unpacked in float32 and rounded once.
        attn_implementation: as transformers names it; None is its own choice.

    Returns:
        The model, the tokenizer, and what transformers says of the loading. The model can be saved like any other.

    Raises:
        UserError: the package that reads such files is not installed, or the file is cut short or damaged.
    """
    if importlib.util.find_spec("gguf") is None:
        raise UserError(f"model: {path} is a GGUF file, for which there is no module gguf; pip install 'rlif[gguf]'")
    # Not above: of the versions of transformers that the trainers of others need, some cannot read such files.
    from transformers import GgufConfig
    from transformers.integrations.gguf import read_gguf_metadata

    directory, file = str(path.parent), path.name
    with _whole(path):
        metadata, names = read_gguf_metadata(str(path))
        tokenizer = AutoTokenizer.from_pretrained(directory, gguf_file=file, trust_remote_code=False)
        with _our_bar(path):
            model, info = AutoModelForCausalLM.from_pretrained(
                directory,
                gguf_file=file,
                trust_remote_code=False,
                quantization_config=GgufConfig(dequantize=True),
                dtype=dtype,
                attn_implementation=attn_implementation,
                output_loading_info=True,
            )
    architecture = metadata.get("general.architecture")
    # Of one architecture alone transformers reads how positions are stretched. A factor of 1 stretches nothing.
    stretched = architecture != "gpt-oss" and metadata.get(f"{architecture}.rope.scaling.factor", 1.0) != 1.0
    if stretched or "rope_freqs.weight" in names:
        warnings.warn(
            f"model: {path} scales the frequencies of its positions, which transformers does not read: its "
            "distributions are not quite those of the model that was packed",
            stacklevel=2,
        )
    ends = [metadata.get(f"tokenizer.ggml.{name}") for name in ENDS]
    model.generation_config.eos_token_id = list(dict.fromkeys(end for end in ends if end is not None)) or None
    model.name_or_path = model.config.name_or_path = str(path)  # by which an adapter finds it again
    return model, tokenizer, info


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Within, what the reader stumbles over in a file that ends too early, or has other bytes, is said as that."""
    try:
        yield
    except (struct.error, UnicodeDecodeError, ValueError) as error:
        # Of a file that ends within a tensor numpy gets fewer values than its shape has.
        if type(error) is ValueError and not str(error).startswith("cannot reshape array"):
            raise
        raise UserError(
            f"model: {path} of {path.stat().st_size:,} bytes is cut short or damaged, expected a whole GGUF file, with "
            "the size and the checksum that its source tells"
        ) from error


@contextmanager
def _our_bar(path: Path) -> Iterator[None]:
    """Within, transformers shows our bar over the tensors of a file, where it has a bar of tqdm."""
    from transformers import modeling_gguf_pytorch_utils as reader

    def shown(tensors: Sequence[Any], **options: Any) -> Iterator[Any]:
        with bar(f"Unpacking {path.name}", "tensors", len(tensors)) as move:
            for tensor in tensors:
                yield tensor
                move(1)

    theirs, reader.tqdm = reader.tqdm, shown
    try:
        yield
    finally:
        reader.tqdm = theirs
