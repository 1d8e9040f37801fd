"""Train a low-rank adapter instead of the model (LoRA, arXiv 2106.09685), by peft."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import LoraConfig, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from safetensors.torch import load_file
from transformers import PreTrainedModel

from rlif.errors import UserError
from rlif.models.language_model import LanguageModel
from rlif.models.loading import loading
from rlif.models.vocabulary import limit_of
from rlif.options.groups import LoraOptions

ADAPTER_FILE = "adapter_model.safetensors"
# Of the names in that file, where a model of peft's is what transformers' own model is here.
PREFIX = "base_model.model."


def policy_to_train(
    start: LanguageModel,
    options: LoraOptions,
    checkpoint: Path | None,
    load: Callable[[str], LanguageModel],
    *,
    seed: int,
) -> LanguageModel:
    """Return the model that a training changes: as it starts, or as a checkpoint has it.

    Args:
        start: the start model. With an adapter it is changed in place and returned.
        options: whether an adapter is trained, and which.
        checkpoint: of the model or of the adapter; None at the start.
        load: a model by the name of its directory.
        seed: of the adapter's first weights.
    """
    if options.lora_rank == 0:
        return start if checkpoint is None else load(str(checkpoint))
    add_lora(
        start.model,
        rank=options.lora_rank,
        alpha=options.lora_alpha,
        target_modules=options.lora_target_modules,
        modules_to_save=options.lora_modules_to_save,
        seed=seed,
    )
    if checkpoint is not None:
        load_lora(start.model, checkpoint)
    return start


def add_lora(
    model: PreTrainedModel,
    *,
    rank: int,
    alpha: float,
    target_modules: Sequence[str],
    modules_to_save: Sequence[str] = (),
    seed: int,
) -> None:
    """Freeze the model and add an adapter that changes nothing yet; it trains, and so do copies of some modules.

    Args:
        model: changed in place.
        rank: of the update of a weight matrix.
        alpha: the update is scaled by alpha / rank.
        target_modules: names of the modules that get one, or "all-linear" alone: all linear layers but the head.
        modules_to_save: names of modules that are trained whole, in copies that belong to the adapter. A head that is
            tied to the word embeddings leaves these as they are.
        seed: of the first weights.

    Raises:
        UserError: no module has such a name, or the head gets an adapter and `limit_vocabulary` left it some columns.
    """
    targets = "all-linear" if list(target_modules) == ["all-linear"] else list(target_modules)
    known = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    if unknown := [name for name in modules_to_save if name.rpartition(".")[2] not in known]:
        raise UserError(f"lora_modules_to_save: got {unknown[0]!r}, expected the name of a module, such as lm_head")
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=targets,
        modules_to_save=list(modules_to_save) or None,
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*tie_word_embeddings")  # which is meant
        torch.manual_seed(seed)
        try:
            model.add_adapter(config)
        except ValueError as error:
            raise UserError(f"lora_target_modules: got {targets!r}: {' '.join(str(error).split())}") from error
    head = model.get_output_embeddings()
    if isinstance(head, BaseTunerLayer) and (columns := limit_of(head.get_base_layer())):
        raise UserError(
            f"lora_target_modules: got the head with vocab_size {columns}, expected other modules: an update of a part "
            "of its columns is none of LoRA's; lora_modules_to_save takes the head as a whole"
        )
    model.eval()


def load_lora(model: PreTrainedModel, directory: Path) -> None:
    """Give the adapter of `add_lora` the weights that were saved in a directory.

    Raises:
        UserError: there are none, or they are of another adapter.
    """
    with loading("resume", str(directory)):
        saved = load_file(directory / ADAPTER_FILE)
        set_peft_model_state_dict(model, {name.removeprefix(PREFIX): weight for name, weight in saved.items()})


@contextmanager
def adapter_off(model: PreTrainedModel) -> Iterator[None]:
    """Within, the model is the one that it was before the adapter."""
    # By transformers' own functions the copies of whole modules would stay off.
    adapted = [module for module in model.modules() if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)]
    for module in adapted:
        module.enable_adapters(enabled=False)
    try:
        yield
    finally:
        for module in adapted:
            module.enable_adapters(enabled=True)
