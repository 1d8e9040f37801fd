"""TRL's losses as `linear_grpo_loss` takes them: the loss with its gradient in three products of the head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from rlif.integrations.trl.fused import Loss
from rlif_kernels.loss_options import CLIPPED_TYPES, VARIANT_DEFAULTS

# The numbers of some losses that TRL has options for; the quantile chooses tokens by what all of them say.
NUMBERS = ("sapo_temperature_pos", "sapo_temperature_neg", *(each for each in VARIANT_DEFAULTS if "vespo" in each))
# Of these TRL divides the sum over tokens by those of the whole batch.
BY_ITEMS = ("cispo", "dapo", "vespo")


def fused_loss(trainer: Any, inputs: Mapping[str, Any]) -> Loss | None:
    """Put a micro-batch of TRL's trainer as `linear_grpo_loss` takes it, scaled as TRL scales it.

    Args:
        trainer: in training.
        inputs: of its `_compute_loss`, B completions of T tokens.

    Returns:
        None where the loss is one of those that `linear_grpo_loss` does not know, or needs the statistics first.
    """
    args, mask = trainer.args, inputs["completion_mask"].bool()
    corrects = trainer.beta and args.use_bias_correction_kl
    unknown = (
        trainer.off_policy_mask_threshold is not None
        or trainer.top_entropy_quantile < 1
        or trainer.use_vllm
        # Our "vespo" corrects the penalty by each token's ratio, at any level.
        or (corrects and trainer.loss_type == "vespo" and trainer.importance_sampling_level == "sequence")
        or "tool_mask" in inputs
        or inputs["advantages"].dim() != 1
    )
    if unknown:
        return None
    loss_type, turns = trainer.loss_type, trainer.current_gradient_accumulation_steps
    tokens = mask.sum().clamp(min=1)
    scale = 1 / turns
    num_items: Tensor | int = tokens
    if loss_type in BY_ITEMS:
        batch = inputs["num_items_in_batch"].clamp(min=1) / trainer.accelerator.num_processes
        # The kernel divides by one item at least, and TRL by any share of one.
        scale, num_items = float(args.steps_per_generation / (batch * turns)), 1
    bonus = _entropy_coef(trainer)
    options: dict[str, Any] = {
        "advantages": inputs["advantages"],
        "old_logprob": inputs.get("old_per_token_logps"),
        "ref_logprob": inputs["ref_per_token_logps"] if trainer.beta else None,
        "loss_type": loss_type,
        "epsilon_low": trainer.epsilon_low,
        "epsilon_high": trainer.epsilon_high,
        "delta": args.delta if loss_type in CLIPPED_TYPES else None,
        "beta": trainer.beta,
        "kl": "k3_corrected" if corrects else "k3",
        "importance_sampling_level": "token" if loss_type == "vespo" else trainer.importance_sampling_level,
        # TRL's bonus is a mean over the micro-batch's tokens, however the loss of the policy adds up.
        "entropy_coef": bonus and bonus / turns / scale * float(num_items / tokens),
        "num_items_in_batch": num_items,
        "max_completion_length": trainer.max_completion_length,
        "loss_scale": scale,
    }
    return Loss(mask, options | {name: getattr(args, name) for name in NUMBERS})


def _entropy_coef(trainer: Any) -> float:
    """Return the weight of the entropy that counts now."""
    if not trainer._entropy_bonus_enabled:
        return 0.0
    if trainer.use_adaptive_entropy and trainer._last_world_entropy > trainer.args.entropy_target:
        return 0.0
    return float(trainer.entropy_coef)
