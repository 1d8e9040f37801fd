"""Completions for TRL's trainer by rlif's own sampling, which draws and measures a token in one read of the logits."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import is_peft_model
from transformers import GenerationConfig, PreTrainedModel
from trl.extras.profiling import profiling_context
from trl.models import unwrap_model_for_generation

from rlif.errors import UserError
from rlif.integrations.trl.fused import as_it_was_loaded
from rlif.models.language_model import LanguageModel
from rlif.rollouts.decoding_check import MAX_DECODING_GAP, check_decoding
from rlif.rollouts.encode import EncodedPrompt
from rlif.rollouts.sample import sample
from rlif_kernels import TokenStats

# Options of generate that rlif's sampling has, or that change no token. Any other, where it is not the default, says
# something about the tokens or about how they are computed that transformers alone can do.
SERVED = {
    "max_new_tokens", "max_length", "do_sample", "temperature", "top_k", "top_p", "eos_token_id", "pad_token_id",
    "bos_token_id", "disable_compile", "transformers_version", "_from_model_config",
}  # fmt: skip


@dataclass(frozen=True)
class Drawing:
    """How completions are drawn."""

    max_completion_length: int
    temperature: float
    top_k: int
    top_p: float


class NotServedError(Exception):
    """What keeps rlif's sampling from drawing a trainer's completions, in words."""


def drawing_of(trainer: Any) -> Drawing:
    """Read off a trainer how generate would draw its completions, its model's own options included.

    Raises:
        NotServedError: `rlif.rollouts.sample.sample` would draw them in another way, or not at all.
    """
    policy = trainer.accelerator.unwrap_model(trainer.model)
    if is_peft_model(policy) and policy.active_peft_config.is_prompt_learning:
        raise NotServedError("its adapter is one of virtual tokens")
    if trainer._dist.is_fsdp:
        raise NotServedError("its weights are sharded, and processes that draw by themselves take unequal steps")
    model = _base(policy)
    options, _ = model._prepare_generation_config(trainer.generation_config)
    defaults = GenerationConfig().to_dict() | model.generation_config._get_default_generation_params()
    known = options.to_dict()
    others = sorted(
        name
        for name, value in known.items()
        if name not in SERVED and value != defaults.get(name) and (value or defaults.get(name))
    )
    if others:
        raise NotServedError(f"generate is told of {', '.join(others)}")
    ends = options.eos_token_id if isinstance(options.eos_token_id, list) else [options.eos_token_id]
    if not options.do_sample or set(ends) != set(trainer.eos_token_ids):
        raise NotServedError("generate is told of another do_sample or eos_token_id than the trainer")
    _check_decoding(trainer, model)
    return Drawing(options.max_new_tokens, options.temperature, options.top_k or 0, options.top_p)


def draw(
    trainer: Any, drawing: Drawing, prompt_ids: Sequence[list[int]], outputs: tuple[str, ...]
) -> tuple[list[list[int]], TokenStats | None]:
    """Draw a completion of each prompt. Equal prompts side by side go through the model once.

    The random numbers are rlif's, seeded by torch's generator of the CPU.

    Args:
        trainer: whose policy draws, in the mode that it is in: with dropout, the completions of a prompt see the same
            one in it.
        drawing: how.
        prompt_ids: N prompts of at least one token each.
        outputs: fields of `TokenStats` to compute.

    Returns:
        N completions, each with its EOS if it has one, and their statistics, (N, T) fields that are 0 after the ends;
        None without outputs.
    """
    size = math.gcd(*(len(list(equal)) for _, equal in itertools.groupby(prompt_ids)))
    prompts = [EncodedPrompt("", None, ids) for ids in prompt_ids[::size]]
    with (
        profiling_context(trainer, "rlif.sample"),
        unwrap_model_for_generation(
            trainer.model_wrapped,
            trainer.accelerator,
            gradient_checkpointing_kwargs=trainer.args.gradient_checkpointing_kwargs,
        ) as policy,
    ):
        rollout = sample(
            _language_model(trainer, _base(policy)),
            prompts,
            num_generations=size,
            max_completion_length=drawing.max_completion_length,
            temperature=drawing.temperature,
            top_k=drawing.top_k,
            top_p=drawing.top_p,
            seeds=[[seed] for seed in torch.randint(2**62, (len(prompts),)).tolist()],
            outputs=outputs,
        )
    lengths = rollout.completion_mask.sum(dim=1).tolist()
    completions = [ids[:length] for ids, length in zip(rollout.completion_ids.tolist(), lengths, strict=True)]
    return completions, rollout.stats


def _check_decoding(trainer: Any, model: PreTrainedModel) -> None:
    """Check once that the model decodes as it is drawn from."""
    if model.dtype not in MAX_DECODING_GAP:
        raise NotServedError(f"its weights are of {model.dtype}")
    ids = list(range(min(8, model.get_input_embeddings().num_embeddings)))
    try:
        with as_it_was_loaded(model):
            check_decoding(_language_model(trainer, model), ids)
    except UserError as error:
        raise NotServedError(str(error)) from error


def _language_model(trainer: Any, model: PreTrainedModel) -> LanguageModel:
    tokenizer = trainer._tokenizer
    return LanguageModel(model, tokenizer, tuple(trainer.eos_token_ids), tokenizer.pad_token_id)


def _base(policy: Any) -> PreTrainedModel:
    return policy.get_base_model() if is_peft_model(policy) else policy
