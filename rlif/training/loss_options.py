"""The options of the loss for each part of a step, so that the losses of the parts add up to that of the step.

The loss itself is `rlif_kernels.grpo_loss`, or `rlif_kernels.policy_loss` of statistics that are there already.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from rlif.training.options import TrainConfig
from rlif_kernels.loss_options import VARIANT_DEFAULTS


class StepSize(NamedTuple):
    """The numbers that the loss of a whole step is a mean over, on all processes together."""

    sequences: int
    """Completions, whether they count or not."""
    tokens: int
    """Tokens that count."""


def loss_options(
    config: TrainConfig,
    size: StepSize,
    sequences: int,
    tokens: int,
    num_processes: int = 1,
    entropy_coef: float | None = None,
) -> dict[str, Any]:
    """Return the options of `rlif_kernels.grpo_loss` that make the losses of a step's parts add up to the step's loss.

    A part is weighted by its share of the mean that `config.loss_type` stands for: tokens / size.tokens for bnpo,
    sequences / size.sequences for grpo, dr_grpo, sapo, gmpo and luspo; dapo, cispo and vespo divide by size.tokens
    themselves. Gradients are averaged over processes, so the loss is multiplied by their number.

    Args:
        config: of the run.
        size: of the step.
        sequences: completions of the part.
        tokens: those of the part that count.
        num_processes: of the run.
        entropy_coef: the weight that counts now, where it follows the entropy; None: that of the configuration.
    """
    share = {
        **dict.fromkeys(("dapo", "cispo", "vespo"), 1.0),
        "bnpo": tokens / max(1, size.tokens),
        **dict.fromkeys(("grpo", "dr_grpo", "sapo", "gmpo", "luspo"), sequences / size.sequences),
    }[config.loss_type]
    return {
        "loss_type": config.loss_type,
        "epsilon_low": config.epsilon,
        "epsilon_high": config.epsilon_high,
        "delta": config.delta,
        "beta": config.beta,
        "kl": config.kl_estimator,
        "importance_sampling_level": config.importance_sampling_level,
        # The means of entropy and self-certainty are over the tokens of the step whatever the loss type.
        "entropy_coef": (config.entropy_coef if entropy_coef is None else entropy_coef) / (share or 1.0),
        "self_certainty_coef": config.self_certainty_coef / (share or 1.0),
        "num_items_in_batch": max(1, size.tokens),
        "max_completion_length": config.max_completion_length,
        "loss_scale": share * num_processes,
        **{name: getattr(config, name) for name in VARIANT_DEFAULTS},
    }
