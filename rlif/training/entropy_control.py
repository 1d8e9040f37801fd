"""The weight of the mean entropy in the loss, which may follow the entropy (Skywork-OR1, arXiv 2505.22312)."""

from __future__ import annotations

from dataclasses import dataclass

from accelerate import Accelerator
from torch import Tensor

from rlif.training.distributed import all_reduce_sum
from rlif.training.variant_options import AdaptiveEntropyOptions
from rlif_kernels.token_selection import high_entropy_tokens


@dataclass
class EntropyControl:
    """The weight as it is after the updates so far: the start's `entropy_coef`, unless it is to follow the entropy."""

    options: AdaptiveEntropyOptions
    coef: float
    last_entropy: float | None = None
    """Mean entropy that the last update saw, nats; None before the first."""
    entropy_sum: float = 0.0
    """Of the tokens that the update under way has seen so far on this process, nats."""
    num_tokens: int = 0
    """How many these are."""

    @property
    def applied(self) -> float:
        """The weight that counts in the next update: if it follows the entropy, 0 where that was above the target."""
        if not self.options.use_adaptive_entropy:
            return self.coef
        low = self.last_entropy is not None and self.last_entropy <= self.options.entropy_target
        return self.coef if low else 0.0

    @property
    def metrics(self) -> dict[str, float]:
        """What is to be logged of it: nothing where the weight stays."""
        return {"entropy_coef": self.coef} if self.options.use_adaptive_entropy else {}

    def see(self, entropy: Tensor, counted: Tensor, share: float) -> None:
        """Add tokens of the update under way.

        Args:
            entropy: (n, T), nats, detached.
            counted: (n, T) bool, the tokens that count.
            share: of these that learn, those of the highest entropy.
        """
        if self.options.use_adaptive_entropy:
            learning = high_entropy_tokens(entropy, counted, share)
            self.entropy_sum += entropy.where(learning, 0).sum().item()
            self.num_tokens += int(learning.sum())

    def finish_update(self, accelerator: Accelerator) -> None:
        """Move the weight by what the update saw on all processes, as TRL's GRPOTrainer does, if it is to follow."""
        options = self.options
        if not options.use_adaptive_entropy:
            return
        sums = all_reduce_sum(accelerator, {"entropy": self.entropy_sum, "tokens": self.num_tokens})
        self.entropy_sum, self.num_tokens = 0.0, 0
        self.last_entropy = sums["entropy"] / max(1, sums["tokens"])
        if self.last_entropy <= options.entropy_target:
            self.coef = min(self.coef + options.entropy_coef_delta, options.entropy_coef_max)
        else:
            self.coef = max(self.coef - options.entropy_coef_delta, options.entropy_coef_min)
