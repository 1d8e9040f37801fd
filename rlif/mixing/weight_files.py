"""The weights of a Hugging Face checkpoint as they lie in its safetensors files, read a few rows at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from rlif.errors import UserError
from rlif.files.json_values import read_json
from rlif.models.gguf import gguf_file
from rlif.models.loading import loading
from rlif.models.sources import check_model_path

# Every type that safetensors has and that is either a plain weight or a whole number.
TORCH_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
# Files beside the weights. A tokenizer's own come in many kinds.
CONFIG_FILES = ("config.json",)
TOKENIZER_FILES = (
    "generation_config.json",  # it names the tokens that end a completion
    "*token*.json",
    "*token*.model",
    "vocab*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "tekken.json",
    "chat_template*",
)
# Elements of a tensor that are in memory at a time, of each model: 64 MB in float32.
PIECE_ELEMENTS = 2**24


class WeightFiles:
    """The named tensors of a checkpoint, none of them in memory.

    Attributes:
        config: of the model, as transformers reads it.
        names: of the tensors, each once: of two names that are tied to one weight only the one that it is kept under.
        tied: the names left out, each with the name of the weight that it shares.
    """

    def __init__(self, model: str, argument: str) -> None:
        """Find the files of a directory, or of a hub id, which is downloaded.

        Raises:
            UserError: naming `argument`: no such model, no safetensors, a quantised one, or damaged files.
        """
        self.argument, self.model = argument, model
        self.directory = _local(model, argument)
        files = _files(self.directory, argument, model)
        self._slices: dict[str, Any] = {}
        for path in sorted(set(files)):
            try:
                opened = safe_open(path, framework="pt")
                self._slices |= {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 - not a dict
            except (OSError, SafetensorError) as error:
                raise UserError(f"{argument}: {model}: cannot read {path.name}: {error}") from error
        with loading(argument, model):
            self.config = AutoConfig.from_pretrained(self.directory, trust_remote_code=False)
            with torch.device("meta"):
                skeleton = AutoModelForCausalLM.from_config(self.config, trust_remote_code=False)
        if getattr(self.config, "quantization_config", None) is not None:
            raise UserError(f"{argument}: {model} is quantised, expected weights in a floating-point type")
        for name in self._slices:
            if self._slices[name].get_dtype() not in TORCH_DTYPES:
                came = self._slices[name].get_dtype()
                raise UserError(f"{argument}: {model}: {name} is {came}, expected one of {', '.join(TORCH_DTYPES)}")
        self.tied = self._find_tied(dict(skeleton.all_tied_weights_keys), skeleton.base_model_prefix)
        self.names = [name for name in self._slices if name not in self.tied]

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._slice(name).get_shape())

    def dtype(self, name: str) -> torch.dtype:
        return TORCH_DTYPES[self._slice(name).get_dtype()]

    def pieces(self, name: str) -> Iterator[Tensor]:
        """Yield the tensor of that name in pieces along its first dimension, of about `PIECE_ELEMENTS` elements."""
        yield from _pieces(self._slice(name))

    def _slice(self, name: str) -> Any:
        return self._slices[self.tied.get(name, name)]

    def _find_tied(self, tied_by_config: dict[str, str], prefix: str) -> dict[str, str]:
        """Which names share a weight, as transformers decides it when it loads them.

        Two that the configuration ties are not where both are stored with different values. Of a tie the one that is
        stored is the weight.
        """
        tied = {}
        for pair in tied_by_config.items():
            target, source = (self._stored_name(name, prefix) for name in pair)
            if target in self._slices and source in self._slices:
                if self._equal(target, source):
                    tied[target] = source
            elif source in self._slices:
                tied[target] = source
            elif target in self._slices:
                tied[source] = target
        return tied

    def _stored_name(self, name: str, prefix: str) -> str:
        """Older checkpoints name the weights of the model without its head, and leave out the prefix of that model."""
        short = name.removeprefix(f"{prefix}.")
        return short if name not in self._slices and short in self._slices else name

    def _equal(self, one: str, other: str) -> bool:
        if self._slices[one].get_shape() != self._slices[other].get_shape():
            return False
        return all(map(torch.equal, _pieces(self._slices[one]), _pieces(self._slices[other])))


def _pieces(values: Any) -> Iterator[Tensor]:
    shape = values.get_shape()
    if not shape or 0 in shape:
        yield values[...]
        return
    rows = max(1, PIECE_ELEMENTS * shape[0] // torch.Size(shape).numel())
    for start in range(0, shape[0], rows):
        yield values[start : start + rows]


def _local(model: str, argument: str) -> Path:
    """The directory of a model; one on the hub is downloaded into the hub's cache first."""
    check_model_path(model, argument)
    path = Path(model).expanduser()
    if path.exists():
        if gguf_file(path, argument) is not None:
            raise UserError(
                f"{argument}: {model} is a GGUF file, expected weights in safetensors, which rlif convert makes of it"
            )
        return path
    patterns = [*CONFIG_FILES, *TOKENIZER_FILES, "*.safetensors", "*.safetensors.index.json"]
    try:
        return Path(snapshot_download(model, allow_patterns=patterns))
    except Exception as error:  # no network, no such model, no permission: each has its own class
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{argument}: could not load {model!r} (no such directory) from the Hugging Face hub: "
            f"{type(error).__name__}: {reason}"
        ) from error


def _is_file_name(name: object) -> bool:
    """Tell whether it is the name of a file, and not the way to one elsewhere."""
    try:
        return isinstance(name, str) and Path(name).name == name and os.fsencode(name) != b""
    except UnicodeEncodeError:  # half of a pair of surrogates, which no name has
        return False


def _files(directory: Path, argument: str, model: str) -> list[Path]:
    """The safetensors files of a model, which may be one or named in an index."""
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        written = read_json(index, argument=argument)
        files = written.get("weight_map") if isinstance(written, dict) else None
        if not isinstance(files, dict) or not all(_is_file_name(name) for name in files.values()):
            raise UserError(f"{argument}: {model}: {index.name} has no weight_map with names of files beside it")
        return [directory / name for name in files.values()]
    single = directory / "model.safetensors"
    if single.is_file():
        return [single]
    if (directory / "adapter_config.json").is_file():
        raise UserError(f"{argument}: {model} is an adapter, expected a whole model, which rlif convert makes of it")
    raise UserError(
        f"{argument}: {model} has no model.safetensors; expected weights in safetensors: load the model with "
        "transformers and write it with save_pretrained"
    )
