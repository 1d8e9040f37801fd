"""The frozen start model: the loss keeps the policy close to it, and evaluations compare the policy with it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rlif.models.fused_head import FusedHead
from rlif.rollouts.rollout import Rollout


@dataclass(frozen=True)
class StartScores:
    """What the start model predicts the tokens of N completions of at most T tokens from."""

    values: Tensor
    """(N, T, H) hidden states, or (N, T, V) logits where no head is fused."""
    head: FusedHead | None
    """For the hidden states; None where it is the policy's own, without its adapter."""


@dataclass(frozen=True)
class StartModel:
    """The model before training: a second model, or with LoRA the policy itself with its adapter switched off."""

    scorer: nn.Module
    """A `Scorer`, or what accelerate made of one."""
    within: Callable[[], AbstractContextManager[None]] = nullcontext
    """The scorer is the start model only within this."""
    head: FusedHead | None = None
    """Of a second model whose head is fused."""

    @torch.no_grad()
    def logprob(self, rollout: Rollout, temperature: float) -> Tensor:
        """Return the log-probability of each completion token: (N, T) float32, in nats, 0 outside the mask.

        Args:
            rollout: N completions of at most T tokens.
            temperature: that of sampling; greater than 0.
        """
        with self.within():
            return self.scorer(rollout, temperature, outputs=("logprob",)).logprob

    @torch.no_grad()
    def scores(self, rollout: Rollout, temperature: float) -> StartScores:
        """Return what the start model predicts each of at most T tokens of N completions from, outside the mask too."""
        with self.within():
            return StartScores(self.scorer(rollout, temperature, outputs=()), self.head)
