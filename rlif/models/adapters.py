"""A directory with a LoRA adapter as a model: the adapter is merged into the model that it names."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn
from transformers import PreTrainedModel

from rlif.errors import UserError
from rlif.files.json_values import read_json

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"


def is_adapter(path: Path) -> bool:
    """Tell whether a directory holds an adapter: then it is one, whatever else lies there, as for transformers."""
    return (path / CONFIG_FILE).is_file()


def base_of(path: Path, argument: str = "model") -> str:
    """Return the directory, file or hub id of the model that an adapter belongs to, as it names it itself.

    Raises:
        UserError: it names none.
    """
    written = read_json(path / CONFIG_FILE, argument=argument)
    base = written.get("base_model_name_or_path") if isinstance(written, dict) else None
    if not isinstance(base, str) or not base:
        raise UserError(
            f"{argument}: {path / CONFIG_FILE} has base_model_name_or_path {base!r}, expected the model that the "
            "adapter belongs to"
        )
    return base


def merged(model: PreTrainedModel, path: Path) -> PreTrainedModel:
    """Merge an adapter into its model, in the dtype of that, and return it: an ordinary model without adapters.

    Args:
        model: that the adapter belongs to; changed in place.
        path: directory of the adapter.

    Raises:
        UserError: it is of a kind that has no weights to add, or not in safetensors.
    """
    if not (path / WEIGHTS_FILE).is_file():
        raise UserError(f"model: {path} has no {WEIGHTS_FILE}, expected the adapter's weights in safetensors")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*tie_word_embeddings")  # which is seen to below
        adapted = PeftModel.from_pretrained(model, str(path), trust_remote_code=False)
    if not hasattr(adapted.base_model, "merge_and_unload"):
        kind = adapted.peft_config["default"].peft_type
        raise UserError(f"model: {path} is an adapter of kind {kind}, which has no weights to merge; expected LoRA")
    _untie_what_differs(model)
    return adapted.merge_and_unload().requires_grad_(True)


@torch.no_grad()
def _untie_what_differs(model: PreTrainedModel) -> None:
    """Give the head a weight of its own where an adapter changes either it or the embedding that it shares one with."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    adapted = (BaseTunerLayer, AuxiliaryTrainingWrapper)
    if not isinstance(embedding, adapted) and not isinstance(head, adapted):
        return
    for part in (model.config, model.config.get_text_config()):
        part.tie_word_embeddings = False
    inner = head
    while isinstance(inner, adapted):
        inner = inner.get_base_layer() if isinstance(inner, BaseTunerLayer) else inner.original_module
    inner.weight = nn.Parameter(inner.weight.detach().clone())
