"""The learner of a run, put together from its configuration: models, rewards and optimizer, and how they are saved."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import cast

import torch
from accelerate import Accelerator
from torch import nn

from rlif.models.activation_checkpointing import enable_checkpointing
from rlif.models.language_model import LanguageModel, load_with_options
from rlif.models.lora import adapter_off, policy_to_train
from rlif.models.optimization import adamw
from rlif.rewards import RewardMixture
from rlif.rollouts.verification import Verifier
from rlif.scoring.scorer import Scorer, make_scorer
from rlif.scoring.start_model import StartModel
from rlif.training.checkpoint import load_optimizer, optimizer_tensors, save_optimizer
from rlif.training.distributed import full_state_dict, initialize_fsdp, reshard, unsharded
from rlif.training.entropy_control import EntropyControl
from rlif.training.options import TrainConfig


@dataclass(frozen=True)
class Models:
    """The models of a run, as accelerate prepared them."""

    language_model: LanguageModel
    """The policy, to sample from."""
    scorer: nn.Module
    """A `Scorer` of the policy, or what DDP or FSDP made of it."""
    start_model: StartModel | None
    """None where nothing needs it."""


@dataclass(frozen=True)
class Learner:
    """The parts of a run that learn or that it learns from."""

    config: TrainConfig
    accelerator: Accelerator
    models: Models
    rewards: RewardMixture
    optimizer: torch.optim.Optimizer
    entropy: EntropyControl
    """The weight of the entropy in the loss, which moves as the run goes on if it is to."""
    verifier: Verifier | None = None
    """What asks the policy to verify its own completions; None where nothing does."""

    @property
    def learns_from_gold(self) -> bool:
        """Whether gold answers have a part in what is learnt."""
        rewarded = any(reward.reads_answers and reward.weight != 0 for reward in self.rewards.rewards)
        return rewarded or (self.config.verify and self.config.verify_labels == "gold")

    @contextmanager
    def as_start_model(self) -> Iterator[LanguageModel]:
        """Within, have the model that training started from, to sample from it; there must be a start model."""
        models = self.models
        assert models.start_model is not None
        if self.config.lora_rank > 0:  # it is the policy with its adapter off
            with unsharded(self.accelerator, models.scorer), models.start_model.within():
                yield models.language_model
        else:
            yield replace(models.language_model, model=cast(Scorer, models.start_model.scorer).model)

    def writer(self, *, with_optimizer: bool) -> Callable[[Path], None]:
        """Return what writes the model, or with LoRA its adapter, and the tokenizer, into a directory.

        All processes have to call this, and only the first to write.
        """
        language_model, scorer = self.models.language_model, self.models.scorer
        reshard(scorer)
        weights = full_state_dict(self.accelerator, scorer)
        state = optimizer_tensors(self.accelerator.unwrap_model(scorer), self.optimizer) if with_optimizer else None

        def write(directory: Path) -> None:
            language_model.model.save_pretrained(directory, state_dict=weights)
            language_model.tokenizer.save_pretrained(directory)
            if state is not None:
                save_optimizer(state, directory)

        return write


def make_learner(
    config: TrainConfig,
    accelerator: Accelerator,
    start: LanguageModel,
    rewards: RewardMixture,
    *,
    need_start_model: bool,
    checkpoint: Path | None = None,
    verifier: Verifier | None = None,
) -> Learner:
    """Prepare for training what starts as `start`, or continues from a checkpoint of it.

    The `verifier` is one of the start's.

    Raises:
        UserError: the model cannot be trained as the configuration says.
    """
    load = partial(load_with_options, config, device=str(accelerator.device))
    policy, start_model = policy_to_train(start, config, checkpoint, load, seed=config.seed), None
    if need_start_model and config.lora_rank == 0:
        frozen = start.model if policy is not start else copy.deepcopy(start.model)
        start_scorer = make_scorer(frozen.requires_grad_(False), config)
        start_model = StartModel(start_scorer, head=start_scorer.head)
    if config.gradient_checkpointing:
        enable_checkpointing(policy.model)

    scorer = make_scorer(policy.model, config)
    optimizer = adamw(scorer.parameters(), config)
    one_token = scorer.one_token()
    scorer, optimizer = accelerator.prepare(scorer, optimizer)
    initialize_fsdp(scorer, one_token)
    if checkpoint is not None:
        load_optimizer(accelerator.unwrap_model(scorer), optimizer, checkpoint)
    if need_start_model and config.lora_rank > 0:
        start_model = StartModel(scorer, partial(adapter_off, policy.model))
    models = Models(policy, scorer, start_model)
    if verifier is not None:
        verifier = replace(verifier, language_model=policy)
    entropy = EntropyControl(config, config.entropy_coef)
    return Learner(config, accelerator, models, rewards, optimizer, entropy, verifier)
