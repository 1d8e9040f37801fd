"""Group-relative policy optimisation (GRPO, arXiv 2402.03300): advantages within a group, and shares of a step's loss.

The loss itself is `rlif_kernels.grpo_loss`, whose definition is `rlif_kernels.policy_loss`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlif.training.options import TrainConfig


def kl_to_reference(logprob: Tensor, reference_logprob: Tensor) -> Tensor:
    """Per-token estimate of KL(policy ‖ reference) in nats: r - log r - 1 with r = reference / policy ("k3").

    Unbiased under the policy's own samples and never negative (http://joschu.net/blog/kl-approx.html). Shapes (N, T).
    """
    log_ratio = reference_logprob - logprob
    return torch.expm1(log_ratio) - log_ratio


class StepSize(NamedTuple):
    """What the loss of a whole step is a mean over, on all processes together."""

    sequences: int
    """Completions, whether they count or not."""
    tokens: int
    """Tokens that count."""


def loss_options(
    config: TrainConfig, size: StepSize, sequences: int, tokens: int, num_processes: int = 1
) -> dict[str, Any]:
    """Options of `rlif_kernels.grpo_loss` that make the losses of a step's parts add up to the loss of the whole.

    A part of that many sequences, and tokens that count, weighs as much as it contributes to the mean that
    `config.loss_type` stands for. Gradients are averaged over processes, so a loss is multiplied by their number.
    """
    share = {
        "dapo": 1.0,
        "bnpo": tokens / max(1, size.tokens),
        "grpo": sequences / size.sequences,
        "dr_grpo": sequences / size.sequences,
    }[config.loss_type]
    return {
        "loss_type": config.loss_type,
        "epsilon_low": config.epsilon,
        "epsilon_high": config.epsilon_high,
        "delta": config.delta,
        "beta": config.beta,
        "importance_sampling_level": config.importance_sampling_level,
        # The means of entropy and self-certainty are over the tokens of the step whatever the loss type.
        "entropy_coef": config.entropy_coef / (share or 1.0),
        "self_certainty_coef": config.self_certainty_coef / (share or 1.0),
        "num_items_in_batch": max(1, size.tokens),
        "max_completion_length": config.max_completion_length,
        "loss_scale": share * num_processes,
    }
