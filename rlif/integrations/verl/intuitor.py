"""The advantage estimator `intuitor`: GRPO's advantages of a response's mean self-certainty (arXiv 2505.19590)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlif.errors import UserError

NAME = "intuitor"

# verl hands an estimator its own choice of columns, which this one is not among, and a mask without the tokens that its
# rollout correction rejects: their rewards count all the same, and a response must not get 0 for having none left.
_column: ContextVar[tuple[Tensor, Tensor] | None] = ContextVar("self_certainty_column", default=None)


@contextmanager
def self_certainty_column(column: Tensor, mask: Tensor) -> Iterator[None]:
    """Within it `compute_intuitor_advantage` finds (N, T) self-certainty that it is not given, and its mask."""
    token = _column.set((column, mask))
    try:
        yield
    finally:
        _column.reset(token)


def compute_intuitor_advantage(
    token_level_rewards: Tensor,
    response_mask: Tensor,
    index: np.ndarray,
    config: Mapping[str, Any] | None = None,
    self_certainty: Tensor | None = None,
    **columns: Any,
) -> tuple[Tensor, Tensor]:
    """Advantages of N responses of at most T tokens: (r - mean) / (std + 1e-6) within a prompt's group.

    r is the mean self-certainty of the response's tokens, plus `rule_reward_weight` times its summed rewards. Tokens
    that verl's rollout correction rejects count in both. Mean and standard deviation are verl's own of GRPO. A response
    that is alone in its group has advantage 0. Every output of an agent's session counts as a response, where verl's
    GRPO compares the last ones and gives their advantage to the others.

    Args:
        token_level_rewards: (N, T), what verl's reward function gave.
        response_mask: (N, T), 1 for the response's tokens.
        index: (N,), equal for responses to one prompt.
        config: verl's `algorithm` section: `norm_adv_by_std_in_grpo` (true), `rule_reward_weight` (0).
        self_certainty: (N, T) in nats, of the mask's tokens; None: that of `self_certainty_column`, and its tokens.
        columns: whatever else verl hands to estimators, not used.

    Returns:
        (N, T) advantages, 0 where the mask is, and the same as returns, as verl's GRPO has it.

    Raises:
        UserError: there is no self-certainty, no prompt has more than one response, or verl put a KL penalty into the
            rewards (`use_kl_in_reward`), where `rule_reward_weight` would scale it and 0 drop it.
    """
    from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

    settings: Mapping[str, Any] = config or {}
    if settings.get("use_kl_in_reward", False):
        raise UserError(
            "algorithm.use_kl_in_reward is true; expected false: intuitor weighs rewards with rule_reward_weight, and "
            "a KL penalty belongs into the loss (actor_rollout_ref.actor.use_kl_loss)"
        )
    measured = response_mask
    if self_certainty is None:
        self_certainty, measured = _column.get() or (None, response_mask)
    if self_certainty is None:
        raise UserError(
            "algorithm.adv_estimator=intuitor found no self-certainty in the batch; expected "
            "actor_rollout_ref.model.external_lib=rlif.integrations.verl.autopatch, trainer.use_v1=true, "
            "an FSDP engine and no algorithm.rollout_correction.bypass_mode"
        )
    group_sizes = Counter(index.tolist())
    if max(group_sizes.values()) == 1:
        raise UserError("actor_rollout_ref.rollout.n is 1; expected at least 2, intuitor compares responses in groups")
    reward = (self_certainty * measured).sum(-1) / measured.sum(-1).clamp(min=1)
    weight = settings.get("rule_reward_weight", 0.0)
    if weight:
        reward = reward + weight * token_level_rewards.sum(-1)
    advantages, _ = compute_grpo_outcome_advantage(
        reward[:, None].float(),
        response_mask,
        index,
        norm_adv_by_std_in_grpo=settings.get("norm_adv_by_std_in_grpo", True),
    )
    alone = torch.tensor([group_sizes[each] == 1 for each in index.tolist()], device=advantages.device)
    advantages = advantages.masked_fill(alone[:, None], 0)
    return advantages, advantages


def register() -> None:
    """Make `algorithm.adv_estimator=intuitor` known to verl in this process."""
    from verl.trainer.ppo.core_algos import register_adv_est

    register_adv_est(NAME)(compute_intuitor_advantage)


def unregister() -> None:
    """Take the name back."""
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY

    ADV_ESTIMATOR_REGISTRY.pop(NAME, None)
