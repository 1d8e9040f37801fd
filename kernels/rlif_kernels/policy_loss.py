"""The loss of GRPO and of its variants, in plain torch: the definition of what the fused losses compute.

`loss_options` has the table of its types, `loss_terms` the derivative in closed form.

Sources: GRPO arXiv 2402.03300; DAPO's token mean and asymmetric clip 2503.14476; Dr. GRPO 2503.20783; the two-sided
clip (delta) 2505.07291; the sequence-level ratio, GSPO, 2507.18071; CISPO 2506.13585; SAPO 2511.20347; VESPO
2602.10693; LUSPO 2602.05261; GMPO 2507.20673. Names and normalisations are TRL's GRPOConfig's; TRL has GMPO as
`experimental.gmpo`.
"""

from typing import Any, NamedTuple, Unpack

import torch
from torch import Tensor

from rlif_kernels.loss_options import (
    HIGHEST_LOG_WEIGHT,
    LEAST_DECAY,
    LOWEST_LOG_WEIGHT,
    LossVariant,
    check_kl_kind,
    check_loss_options,
    policy_term,
    variant_numbers,
)
from rlif_kernels.stats import TokenStats
from rlif_kernels.token_selection import clip_cov_tokens, covariances, high_entropy_tokens, kl_cov_tokens


class GRPOLoss(NamedTuple):
    """The loss, which carries the gradient, and what is worth logging about each token, detached.

    The fields after `loss` are shaped like the targets, 0 (False) in masked rows, and None where not requested.
    """

    loss: Tensor
    """() float32."""
    logprob: Tensor | None = None
    """Log-probability of the target, float32, nats."""
    entropy: Tensor | None = None
    """float32, nats."""
    self_certainty: Tensor | None = None
    """KL(Uniform ‖ p), float32, nats."""
    kl: Tensor | None = None
    """KL(policy ‖ reference), or the estimate of it that `kl` names, float32, nats; None without a reference."""
    clipped: Tensor | None = None
    """bool: the ratio lies beyond its clip range on the side that the advantage pushes it to. Of "cispo" above its
    bound, where the advantage is positive; never in "sapo" and "vespo", which clip nothing."""


def k3_kl(logprob: Tensor, ref_logprob: Tensor) -> Tensor:
    """Estimate KL(policy ‖ reference) of each token, in nats: r - log r - 1 with r = reference / policy ("k3").

    It is unbiased under the policy's own samples and never negative (http://joschu.net/blog/kl-approx.html). The
    gradient to `logprob` is 1 - r.

    Args:
        logprob: (...) log-probabilities of the sampled tokens by the policy, nats.
        ref_logprob: (...) those by the reference.
    """
    difference = ref_logprob - logprob
    return torch.expm1(difference) - difference


def policy_loss(
    stats: TokenStats,
    advantages: Tensor,
    old_logprob: Tensor | None = None,
    ref_logprob: Tensor | None = None,
    token_weight: Tensor | None = None,
    *,
    mask: Tensor,
    full_kl: Tensor | None = None,
    loss_type: str = "dapo",
    epsilon_low: float = 0.2,
    epsilon_high: float | None = None,
    delta: float | None = None,
    beta: float = 0.0,
    kl: str = "k3",
    importance_sampling_level: str = "token",
    entropy_coef: float = 0.0,
    self_certainty_coef: float = 0.0,
    num_items_in_batch: int | Tensor | None = None,
    max_completion_length: int | None = None,
    loss_scale: float = 1.0,
    **variant: Unpack[LossVariant],
) -> GRPOLoss:
    """Compute the loss of GRPO from the statistics of the tokens: it defines what `grpo_loss` does after `token_stats`.

    It serves where the statistics decide the advantages as well: one forward gives the reward, from the detached
    statistics, and the loss. Autograd differentiates it; `loss_terms` has the derivative in closed form.

    Args:
        stats: with `logprob`, `entropy` or `self_certainty` if its coefficient is not 0, and `entropy` for a
            `top_entropy_quantile`; (..., T), the last dimension running over a sequence's tokens.
        advantages: (...), one for each sequence, or (..., T).
        old_logprob: (..., T), of the policy that sampled. None on-policy: the ratio is 1.
        ref_logprob: (..., T), of the reference that `beta` holds on to.
        token_weight: as in `grpo_loss`.
        mask: (..., T) bool, the tokens that count.
        full_kl: (..., T), KL(policy ‖ reference) itself, nats, with its gradient: in the place of an estimate, and what
            ``kl="full"`` stands for here.

    The other arguments are those of `rlif_kernels.grpo_loss`.

    Returns:
        `GRPOLoss`, in the dtype of the statistics.

    Raises:
        ValueError: bad options, or a statistic or `ref_logprob` is missing.
    """
    numbers = variant_numbers(variant)
    check_loss_options(loss_type, importance_sampling_level, delta, numbers)
    check_kl_kind(kl)
    _check_statistics(stats, entropy_coef, self_certainty_coef, numbers["top_entropy_quantile"])
    logprob = stats.logprob
    assert logprob is not None
    penalty = full_kl
    if penalty is None and kl != "full" and ref_logprob is not None:
        penalty = k3_kl(logprob.where(mask, 0), ref_logprob.where(mask, 0))
    if beta and penalty is None:
        name, what = ("full_kl", "divergences") if kl == "full" else ("ref_logprob", "log-probabilities")
        raise ValueError(f"beta is {beta} and {name} is None; expected the reference's {what}, or 0")
    # What stands in padding may be anything.
    per_token = advantages.ndim == logprob.ndim
    advantages = advantages.where(mask, 0) if per_token else advantages[..., None]
    lengths = mask.sum(-1, keepdim=True).clamp(min=1)
    # On-policy the ratio is 1 in value and has the gradient of the log-probability.
    log_ratio = logprob - (logprob.detach() if old_logprob is None else old_logprob)
    log_ratio = log_ratio.where(mask, 0)
    if importance_sampling_level == "sequence":
        log_ratio = (log_ratio.sum(-1, keepdim=True) / lengths).expand_as(logprob)
    if penalty is not None and full_kl is None and kl == "k3_corrected":
        penalty = log_ratio.exp() * penalty
    kept, covariance = mask, None
    if numbers["top_entropy_quantile"] < 1:
        assert stats.entropy is not None
        kept = high_entropy_tokens(stats.entropy, mask, numbers["top_entropy_quantile"])
    if numbers["clip_cov_ratio"] > 0 or numbers["kl_cov_ratio"] > 0:
        covariance = covariances(logprob, advantages, mask)

    term = policy_term(loss_type)
    weighted = advantages
    if token_weight is not None and term != "vespo":
        weighted = advantages * token_weight.where(mask, 0)
    # The bounds are tensors: torch.compile fixes numbers that clamp is given, and compiles for each value anew.
    one, epsilon_high = logprob.new_ones(()), epsilon_low if epsilon_high is None else epsilon_high
    clipped = torch.zeros_like(mask)
    if term == "clip":
        bounds = one * (1 - epsilon_low), one * (1 + epsilon_high)
        token_loss, clipped = _clip(log_ratio, weighted, *bounds, delta, covariance, mask, numbers)
    elif term == "gmpo":
        token_loss, clipped = _gmpo(log_ratio, weighted, -one * epsilon_low, one * epsilon_high, kept)
    elif term == "sapo":
        token_loss = _sapo(log_ratio, weighted, numbers)
    elif term == "cispo":
        ratio, largest = log_ratio.exp(), one * epsilon_high
        token_loss = -ratio.clamp(max=largest).detach() * weighted * logprob.where(mask, 0)
        clipped = (ratio > largest) & (weighted > 0)
    else:
        phi = _gamma_weight(log_ratio, token_weight, weighted, mask, numbers)
        token_loss = -phi * weighted * logprob.where(mask, 0)
    if term != "gmpo":  # whose mean leaves the others out
        token_loss = token_loss.where(kept, 0)
    if penalty is not None:
        penalty = penalty.where(mask, 0)
        token_loss = token_loss + beta * penalty
    token_loss = token_loss.where(mask, 0)

    num_tokens = mask.sum().clamp(min=1)
    if num_items_in_batch is None:
        num_items_in_batch = num_tokens
    loss = _added_up(token_loss, mask, lengths, loss_type, num_items_in_batch, max_completion_length)
    # Of some tokens alone the mean is over these, times the share that the tokens here have in the whole batch.
    count = num_items_in_batch if kept is mask else num_items_in_batch * (kept.sum().clamp(min=1) / num_tokens)
    for coefficient, value in ((entropy_coef, stats.entropy), (self_certainty_coef, stats.self_certainty)):
        if coefficient:
            assert value is not None
            loss = loss - coefficient * value.where(kept, 0).sum() / count
    detached = (None if value is None else value.detach() for value in (*stats[:3], penalty, clipped & mask))
    return GRPOLoss(loss * loss_scale, *detached)


def _check_statistics(
    stats: TokenStats, entropy_coef: float, self_certainty_coef: float, top_entropy_quantile: float
) -> None:
    """Refuse a loss whose statistics are not there."""
    for name, option, given, off in (
        ("entropy", "entropy_coef", entropy_coef, 0),
        ("self_certainty", "self_certainty_coef", self_certainty_coef, 0),
        ("entropy", "top_entropy_quantile", top_entropy_quantile, 1),
    ):
        if given != off and getattr(stats, name) is None:
            raise ValueError(f"stats.{name} is None and {option} {given}; expected the statistic, or {off}")
    if stats.logprob is None:
        raise ValueError("stats.logprob is None; expected the log-probabilities that the loss is made of")


def _added_up(
    token_loss: Tensor,
    mask: Tensor,
    lengths: Tensor,
    loss_type: str,
    num_items_in_batch: int | Tensor,
    max_completion_length: int | None,
) -> Tensor:
    """Add the losses of the tokens up, (), as the loss type says; those of masked ones are 0."""
    num_sequences = max(1, mask[..., 0].numel())
    if loss_type in ("grpo", "sapo", "gmpo"):
        return (token_loss.sum(-1, keepdim=True) / lengths).sum() / num_sequences
    if loss_type == "bnpo":
        return token_loss.sum() / mask.sum().clamp(min=1)
    if loss_type == "dr_grpo":
        return token_loss.sum() / (num_sequences * (max_completion_length or mask.shape[-1]))
    if loss_type == "luspo":
        return token_loss.sum() / num_sequences
    return token_loss.sum() / num_items_in_batch


# ---------------------------------------------------------------- the policy terms, (..., T) of (..., T)


def _clip(
    log_ratio: Tensor,
    advantages: Tensor,
    low: Tensor,
    high: Tensor,
    delta: float | None,
    covariance: Tensor | None,
    mask: Tensor,
    numbers: dict[str, Any],
) -> tuple[Tensor, Tensor]:
    """Clip the ratio, or hold tokens by their covariance; return the loss of each token, and which are clipped."""
    ratio = log_ratio.exp()
    clipped = ((ratio < low) & (advantages < 0)) | ((ratio > high) & (advantages > 0))
    if covariance is not None and numbers["kl_cov_ratio"] > 0:
        held = kl_cov_tokens(covariance, mask, numbers["kl_cov_ratio"])
        penalty = (numbers["kl_cov_coef"] * log_ratio.abs()).where(held, 0)
        return -ratio * advantages + penalty, torch.zeros_like(clipped)
    capped = ratio if delta is None else ratio.clamp(max=ratio.new_ones(()) * delta)
    token_loss = -torch.minimum(capped * advantages, ratio.clamp(low, high) * advantages)
    if covariance is not None and numbers["clip_cov_ratio"] > 0:
        limits = numbers["clip_cov_lb"], numbers["clip_cov_ub"]
        left_out = clip_cov_tokens(covariance, clipped, mask, numbers["clip_cov_ratio"], *limits)
        return token_loss.masked_fill(left_out, 0), clipped | left_out
    return token_loss, clipped


def _sapo(log_ratio: Tensor, advantages: Tensor, numbers: dict[str, Any]) -> Tensor:
    """Let a sigmoid of the ratio stand for it, whose slope falls off on both sides of 1."""
    one = log_ratio.new_ones(())
    pos, neg = one * numbers["sapo_temperature_pos"], one * numbers["sapo_temperature_neg"]
    temperature = torch.where(advantages > 0, pos, neg)
    return -(torch.sigmoid(temperature * (log_ratio.exp() - 1)) * 4 / temperature) * advantages


def _gmpo(log_ratio: Tensor, advantages: Tensor, low: Tensor, high: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Let the geometric mean of the ratios of the tokens kept, clipped in their logarithm, stand for each of them."""
    bounded = torch.where(advantages > 0, log_ratio.clamp(max=high), log_ratio.clamp(min=low))
    clipped = ((log_ratio < low) & (advantages < 0)) | ((log_ratio > high) & (advantages > 0))
    mean = bounded.where(kept, 0).sum(-1, keepdim=True) / kept.sum(-1, keepdim=True).clamp(min=1)
    return -mean.exp() * advantages, clipped


@torch.no_grad()
def _gamma_weight(
    log_ratio: Tensor, token_weight: Tensor | None, advantages: Tensor, mask: Tensor, numbers: dict[str, Any]
) -> Tensor:
    """Weigh a sequence by phi(W) = exp(lambda + k log W - lambda W), W the product of its ratios and weights."""
    log_weight = log_ratio.clamp(-HIGHEST_LOG_WEIGHT, HIGHEST_LOG_WEIGHT)
    if token_weight is not None:
        given = token_weight.log().clamp(LOWEST_LOG_WEIGHT, HIGHEST_LOG_WEIGHT)
        log_weight = log_weight + given.where(mask, 0)
    log_weight = log_weight.sum(-1, keepdim=True).clamp(LOWEST_LOG_WEIGHT, HIGHEST_LOG_WEIGHT)
    one = log_weight.new_ones(())
    k = torch.where(advantages >= 0, one * numbers["vespo_k_pos"], one * numbers["vespo_k_neg"])
    decay = torch.where(advantages >= 0, one * numbers["vespo_lambda_pos"], one * numbers["vespo_lambda_neg"])
    decay = decay.clamp(min=LEAST_DECAY)
    return (decay + k * log_weight - decay * log_weight.exp()).exp().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
