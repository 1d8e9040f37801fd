"""Everything that learns, put together from a configuration: models, adapter, optimizer, and how they are saved."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedModel

from rlif.models.activation_checkpointing import enable_checkpointing
from rlif.models.fused_head import fused_head
from rlif.models.language_model import LanguageModel, load_language_model
from rlif.models.lora import adapter_off, add_lora, load_lora
from rlif.rewards import RewardMixture
from rlif.scoring.scorer import Scorer
from rlif.scoring.start_model import Reference
from rlif.training.checkpoint import load_optimizer, optimizer_tensors, save_optimizer
from rlif.training.distributed import divide, full_state_dict, ready_for_parts
from rlif.training.options import TrainConfig


@dataclass(frozen=True)
class Policy:
    """What an evaluation needs of a run, as accelerate prepared it."""

    config: TrainConfig
    accelerator: Accelerator
    policy: LanguageModel
    scorer: nn.Module
    """A `Scorer` of the policy, or what DDP or FSDP made of it."""
    reference: Reference | None
    """The start model, where something needs it."""


@dataclass(frozen=True)
class Learner(Policy):
    """The parts of a run that learn or that it learns from."""

    rewards: RewardMixture
    optimizer: torch.optim.Optimizer

    def writer(self, *, with_optimizer: bool) -> Callable[[Path], None]:
        """What writes the model, or with LoRA its adapter, and the tokenizer, into a directory.

        All processes have to call this, and only the first to write.
        """
        divide(self.scorer)
        weights = full_state_dict(self.accelerator, self.scorer)
        state = (
            optimizer_tensors(self.accelerator.unwrap_model(self.scorer), self.optimizer) if with_optimizer else None
        )

        def write(directory: Path) -> None:
            self.policy.model.save_pretrained(directory, state_dict=weights)
            self.policy.tokenizer.save_pretrained(directory)
            if state is not None:
                save_optimizer(state, directory)

        return write


def make_learner(
    config: TrainConfig,
    accelerator: Accelerator,
    start: LanguageModel,
    rewards: RewardMixture,
    *,
    need_reference: bool,
    checkpoint: Path | None = None,
) -> Learner:
    """Prepare for training what starts as `start`, or continues from a checkpoint of it.

    Raises:
        UserError: the model cannot be trained as the configuration says.
    """
    policy, reference = start, None
    if config.lora_rank > 0:
        add_lora(
            policy.model,
            rank=config.lora_rank,
            alpha=config.lora_alpha,
            target_modules=config.lora_target_modules,
            seed=config.seed,
        )
        if checkpoint is not None:
            load_lora(policy.model, checkpoint)
    elif checkpoint is not None:
        policy = load_language_model(
            str(checkpoint),
            device=str(accelerator.device),
            dtype=config.dtype,
            attn_implementation=config.attn_implementation,
        )
    if need_reference and config.lora_rank == 0:
        frozen = start.model if policy is not start else copy.deepcopy(start.model)
        reference = Reference(make_scorer(frozen.requires_grad_(False), config))
    if config.gradient_checkpointing:
        enable_checkpointing(policy.model)

    scorer = make_scorer(policy.model, config)
    trained = [parameter for parameter in scorer.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, weight_decay=config.weight_decay, fused=True)
    one_token = scorer.one_token()
    scorer, optimizer = accelerator.prepare(scorer, optimizer)
    ready_for_parts(scorer, one_token)
    if checkpoint is not None:
        load_optimizer(accelerator.unwrap_model(scorer), optimizer, checkpoint)
    if need_reference and config.lora_rank > 0:
        reference = Reference(scorer, partial(adapter_off, policy.model))
    return Learner(config, accelerator, policy, scorer, reference, rewards, optimizer)


def make_scorer(model: PreTrainedModel, config: TrainConfig) -> Scorer:
    """The model with its head fused, unless the configuration says otherwise.

    Raises:
        UserError: the head cannot be fused.
    """
    return Scorer(model, fused_head(model) if config.fused_head else None)
