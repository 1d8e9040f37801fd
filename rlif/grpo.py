"""Group-relative policy optimisation (GRPO, arXiv 2402.03300): advantages within a group, clipped loss, KL penalty."""

from __future__ import annotations

import torch
from torch import Tensor

# As in TRL: keeps a group whose rewards differ by rounding alone from being blown up to unit variance.
STD_EPSILON = 1e-4


def group_advantages(rewards: Tensor, num_generations: int) -> Tensor:
    """(reward - mean) / (std + 1e-4) within each group, with the unbiased standard deviation.

    Args:
        rewards: (N,) float32, the `num_generations` completions of one prompt side by side.
        num_generations: at least 2; divides N.

    Returns:
        (N,) float32; 0 throughout a group whose rewards are all equal.
    """
    groups = rewards.view(-1, num_generations)
    centred = groups - groups.mean(dim=1, keepdim=True)
    # The mean of equal numbers may differ from them by rounding, which the division would make a push for all alike.
    # Rewards that are not finite must stay so: the step is then skipped.
    largest, smallest = groups.amax(dim=1, keepdim=True), groups.amin(dim=1, keepdim=True)
    equal = (largest == smallest) & largest.isfinite()
    return (centred / (groups.std(dim=1, keepdim=True) + STD_EPSILON)).masked_fill(equal, 0.0).flatten()


def kl_to_reference(logprob: Tensor, reference_logprob: Tensor) -> Tensor:
    """Per-token estimate of KL(policy ‖ reference) in nats: r - log r - 1 with r = reference / policy ("k3").

    Unbiased under the policy's own samples and never negative (http://joschu.net/blog/kl-approx.html). Shapes (N, T).
    """
    log_ratio = reference_logprob - logprob
    return log_ratio.exp() - log_ratio - 1


def policy_loss(
    logprob: Tensor,
    old_logprob: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    num_tokens: int,
    epsilon: float,
    beta: float = 0.0,
    reference_logprob: Tensor | None = None,
) -> Tensor:
    """Clipped policy loss plus `beta` times the KL to the reference, summed over tokens and divided by `num_tokens`.

    Every token of a step weighs the same, whatever the length of its completion: TRL's `loss_type="dapo"`. When
    `num_tokens` counts the whole step, the losses of its parts add up to the loss of the whole, so gradients
    accumulated over parts are exact.

    Args:
        logprob: (N, T) float32, with gradient.
        old_logprob: (N, T) float32, of the policy that sampled. On-policy it is `logprob.detach()`, the ratio is
            exactly 1, and the gradient is that of -advantage * logprob.
        advantages: (N,) float32.
        mask: (N, T) bool, the tokens that count.
        num_tokens: the tokens that count in the whole step.
        epsilon: the ratio gains nothing beyond 1 ± epsilon.
        beta: weight of the KL; 0 needs no reference.
        reference_logprob: (N, T) float32, of the frozen start model.

    Returns:
        () float32.
    """
    ratio = torch.exp(logprob - old_logprob)
    advantages = advantages[:, None]
    token_loss = -torch.minimum(ratio * advantages, ratio.clamp(1 - epsilon, 1 + epsilon) * advantages)
    if beta > 0:
        assert reference_logprob is not None
        token_loss = token_loss + beta * kl_to_reference(logprob, reference_logprob)
    return token_loss.masked_fill(~mask, 0.0).sum() / num_tokens
