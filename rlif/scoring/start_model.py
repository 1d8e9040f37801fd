"""The frozen start model: the loss keeps the policy close to it, and evaluations compare the policy with it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rlif.rollouts.rollout import Rollout


@dataclass(frozen=True)
class StartModel:
    """The model before training: a second model, or with LoRA the policy itself with its adapter switched off."""

    scorer: nn.Module
    """A `Scorer`, or what accelerate made of one."""
    within: Callable[[], AbstractContextManager[None]] = nullcontext
    """The scorer is the start model only within this."""

    @torch.no_grad()
    def logprob(self, rollout: Rollout, temperature: float) -> Tensor:
        """Return the log-probability of each completion token: (N, T) float32, in nats, 0 outside the mask.

        Args:
            rollout: N completions of at most T tokens.
            temperature: that of sampling; greater than 0.
        """
        with self.within():
            return self.scorer(rollout, temperature, outputs=("logprob",)).logprob
