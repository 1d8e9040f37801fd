"""The frozen start model: the policy must not stray far from it, and it judges what the policy samples."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rlif.rollouts.rollout import Rollout


@dataclass(frozen=True)
class Reference:
    """A second model, or with LoRA the policy itself with its adapter switched off."""

    scorer: nn.Module
    """A `Scorer`, or what accelerate made of one."""
    within: Callable[[], AbstractContextManager[None]] = nullcontext
    """The scorer is the start model only within this."""

    @torch.no_grad()
    def logprob(self, rollout: Rollout, temperature: float) -> Tensor:
        """Log-probabilities of N completions' tokens at that temperature: (N, T) float32, nats, 0 outside the mask."""
        with self.within():
            return self.scorer(rollout, temperature, outputs=("logprob",)).logprob
