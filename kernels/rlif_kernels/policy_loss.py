"""The loss of GRPO and of its variants: `policy_loss` in plain torch, and `token_terms`, its derivative in closed form.

The derivative needs nothing but the token's own statistics. So the fused losses can write the gradient of a row's
logits while the row is still in the cache. With A the advantage, r = exp(logprob - old_logprob) the ratio, d =
ref_logprob - logprob, and w, v the token's weights in the loss and in the means of the two terms:

    loss = w (-min(min(r, delta) A, clamp(r, 1 - epsilon_low, 1 + epsilon_high) A) + beta (exp(d) - d - 1))
           - v (entropy_coef entropy + self_certainty_coef self_certainty)

    d loss / d logprob        = w (-A r [not clipped] + beta (1 - exp(d)))
    d loss / d entropy        = -v entropy_coef
    d loss / d self_certainty = -v self_certainty_coef

Sources: GRPO arXiv 2402.03300; DAPO's token mean and asymmetric clip 2503.14476; Dr. GRPO 2503.20783; the two-sided
clip (delta) 2505.07291; the sequence-level ratio, GSPO, 2507.18071. Names and normalisations are TRL's GRPOConfig's.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from rlif_kernels.stats import TokenStats

LOSS_TYPES = ("grpo", "bnpo", "dr_grpo", "dapo")
IMPORTANCE_SAMPLING_LEVELS = ("token", "sequence")


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
    """Estimate "k3" of KL(policy ‖ reference), float32, nats; None without `ref_logprob`."""
    clipped: Tensor | None = None
    """bool: the ratio lies beyond its clip range on the side that the advantage pushes it to."""


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
    *,
    mask: Tensor,
    loss_type: str = "dapo",
    epsilon_low: float = 0.2,
    epsilon_high: float | None = None,
    delta: float | None = None,
    beta: float = 0.0,
    importance_sampling_level: str = "token",
    entropy_coef: float = 0.0,
    self_certainty_coef: float = 0.0,
    num_items_in_batch: int | Tensor | None = None,
    max_completion_length: int | None = None,
    loss_scale: float = 1.0,
) -> GRPOLoss:
    """Compute the loss of GRPO from the statistics of the tokens: it defines what `grpo_loss` does after `token_stats`.

    It serves where the statistics decide the advantages as well: one forward gives the reward, from the detached
    statistics, and the loss. Autograd differentiates it: per token, with w, v, A, r and d as above,

    | gradient to | is |
    | --- | --- |
    | `logprob` | w (-A r [not clipped] + beta (1 - exp(d))) |
    | `entropy` | -v entropy_coef |
    | `self_certainty` | -v self_certainty_coef |

    Args:
        stats: with `logprob`, and `entropy` or `self_certainty` if its coefficient is not 0; (..., T), the last
            dimension running over a sequence's tokens.
        advantages: (...), one for each sequence, or (..., T).
        old_logprob: (..., T), of the policy that sampled. None on-policy: the ratio is 1.
        ref_logprob: (..., T), of the reference that `beta` holds on to.
        mask: (..., T) bool, the tokens that count.

    The other arguments are those of `rlif_kernels.grpo_loss`.

    Returns:
        `GRPOLoss`, in the dtype of the statistics.

    Raises:
        ValueError: the loss type or the level is not known, or a statistic or `ref_logprob` is missing.
    """
    for name, given, choices in (
        ("loss_type", loss_type, LOSS_TYPES),
        ("importance_sampling_level", importance_sampling_level, IMPORTANCE_SAMPLING_LEVELS),
    ):
        if given not in choices:
            raise ValueError(f"{name} is {given!r}; expected one of {choices}")
    for name, coefficient in (("entropy", entropy_coef), ("self_certainty", self_certainty_coef)):
        if coefficient and getattr(stats, name) is None:
            raise ValueError(f"stats.{name} is None and {name}_coef {coefficient}; expected the statistic, or 0")
    if beta and ref_logprob is None:
        raise ValueError(f"beta is {beta} and ref_logprob is None; expected the reference's log-probabilities, or 0")
    logprob = stats.logprob
    if logprob is None:
        raise ValueError("stats.logprob is None; expected the log-probabilities that the loss is made of")
    if advantages.ndim < logprob.ndim:
        advantages = advantages[..., None]
    lengths = mask.sum(-1, keepdim=True).clamp(min=1)
    # On-policy the ratio is 1 in value and has the gradient of the log-probability.
    log_ratio = logprob - (logprob.detach() if old_logprob is None else old_logprob)
    log_ratio = log_ratio.where(mask, 0)
    if importance_sampling_level == "sequence":
        log_ratio = (log_ratio.sum(-1, keepdim=True) / lengths).expand_as(logprob)
    ratio = log_ratio.exp()
    # The bounds are tensors: torch.compile fixes numbers that clamp is given, and compiles for each value anew.
    one = ratio.new_ones(())
    low, high = one * (1 - epsilon_low), one * (1 + (epsilon_low if epsilon_high is None else epsilon_high))
    capped = ratio if delta is None else ratio.clamp(max=one * delta)
    token_loss = -torch.minimum(capped * advantages, ratio.clamp(low, high) * advantages)
    clipped = ((ratio < low) & (advantages < 0)) | ((ratio > high) & (advantages > 0))
    kl = None
    if ref_logprob is not None:
        kl = k3_kl(logprob.where(mask, 0), ref_logprob.where(mask, 0))
        token_loss = token_loss + beta * kl
    token_loss = token_loss.where(mask, 0)

    num_tokens = mask.sum().clamp(min=1)
    num_sequences = max(1, mask[..., 0].numel())
    if num_items_in_batch is None:
        num_items_in_batch = num_tokens
    if loss_type == "grpo":
        loss = (token_loss.sum(-1, keepdim=True) / lengths).sum() / num_sequences
    elif loss_type == "bnpo":
        loss = token_loss.sum() / num_tokens
    elif loss_type == "dr_grpo":
        loss = token_loss.sum() / (num_sequences * (max_completion_length or mask.shape[-1]))
    else:
        loss = token_loss.sum() / num_items_in_batch
    for coefficient, value in ((entropy_coef, stats.entropy), (self_certainty_coef, stats.self_certainty)):
        if coefficient:
            assert value is not None
            loss = loss - coefficient * value.where(mask, 0).sum() / num_items_in_batch
    detached = (None if value is None else value.detach() for value in (*stats[:3], kl, clipped & mask))
    return GRPOLoss(loss * loss_scale, *detached)


class LossOptions(NamedTuple):
    """The numbers that the loss is told, the same for every token."""

    epsilon_low: float
    epsilon_high: float
    delta: float
    """Infinite where the ratio has no upper bound of its own."""
    beta: float
    entropy_coef: float
    self_certainty_coef: float


class LossRows(NamedTuple):
    """What each token brings along, (N,) float32 each."""

    advantage: Tensor
    weight: Tensor
    """Of the token in the loss; 0 where it is masked."""
    mean_weight: Tensor
    """Of the token in a mean over all tokens."""
    old_logprob: Tensor | None
    """None on-policy: the ratio is 1."""
    ref_logprob: Tensor | None

    def map(self, function: Callable[[Tensor], Tensor]) -> "LossRows":
        """Apply a function to each tensor that there is."""
        old, ref = (None if value is None else function(value) for value in (self.old_logprob, self.ref_logprob))
        return LossRows(function(self.advantage), function(self.weight), function(self.mean_weight), old, ref)


class TokenTerms(NamedTuple):
    """What each token adds to the loss, its k3 and clip flag, and the derivative by field of `TokenStats`."""

    loss: Tensor
    kl: Tensor | None
    clipped: Tensor
    grads: dict[str, Tensor]


def token_weights(
    active: Tensor,
    loss_type: str,
    num_items_in_batch: int | Tensor | None,
    max_completion_length: int | None,
    loss_scale: float,
) -> tuple[Tensor, Tensor]:
    """Return the weight of each token of (..., T) in the loss and in the mean over tokens, float32; 0 where not active.

    A loss of type "grpo" is the mean over sequences of the mean over a sequence's tokens, "bnpo" the mean over tokens,
    "dapo" their sum divided by `num_items_in_batch`, "dr_grpo" their sum divided by the number of sequences and by
    `max_completion_length`.
    """
    # As few operations as can be: each is a launch on a GPU.
    num_tokens = active.sum().clamp(min=1)
    weight = mean_weight = active / num_tokens * loss_scale
    num_sequences = max(1, active[..., 0].numel()) if active.shape[-1] else 1
    if loss_type == "grpo":
        weight = active / active.sum(-1, keepdim=True).clamp(min=1) * (loss_scale / num_sequences)
    elif loss_type == "dr_grpo":
        weight = active * (loss_scale / (num_sequences * (max_completion_length or max(1, active.shape[-1]))))
    if num_items_in_batch is not None:
        # Not torch.as_tensor of an integer: torch.compile would fix it, and compile anew for each.
        mean_weight = active / (mean_weight.new_ones(()) * num_items_in_batch).clamp(min=1) * loss_scale
    return (mean_weight if loss_type == "dapo" else weight), mean_weight


def token_terms(
    fields: Mapping[str, Tensor],
    rows: LossRows,
    options: LossOptions,
    average: Callable[[Tensor], Tensor] | None = None,
) -> TokenTerms:
    """Return the loss and its derivative from the statistics of each token, (N,).

    Args:
        fields: of `TokenStats`, float32: "logprob", and those whose coefficient is not 0.
        rows: what the tokens bring along.
        options: the numbers of the loss.
        average: puts the mean of a sequence in the place of its tokens' log-ratios, where the ratio is a sequence's:
            see `sequence_average`.
    """
    logprob, advantage, weight = fields["logprob"], rows.advantage, rows.weight
    # On-policy the ratio is exactly 1, but NaN where the log-probability is NaN.
    log_ratio = logprob - (logprob if rows.old_logprob is None else rows.old_logprob)
    if average is not None:
        log_ratio = average(log_ratio)
    ratio = log_ratio.exp()
    low, high = 1 - options.epsilon_low, 1 + options.epsilon_high
    capped, in_range = ratio.clamp(max=options.delta) * advantage, ratio.clamp(low, high) * advantage
    # Where both are equal, either the ratio is in range or the advantage is 0: both give the same derivative.
    flows = torch.where(capped <= in_range, ratio <= options.delta, (ratio >= low) & (ratio <= high))
    loss = -torch.minimum(capped, in_range)
    g_logprob = weight * -(advantage * ratio).where(flows | ratio.isnan(), 0)
    if average is not None:
        # Every token of the sequence moves the ratio, and with it the loss of every token; their advantages may differ.
        g_logprob = average(g_logprob)
    clipped = ((ratio < low) & (advantage < 0)) | ((ratio > high) & (advantage > 0))
    kl = None
    if rows.ref_logprob is not None:
        difference = rows.ref_logprob - logprob
        growth = torch.expm1(difference)
        kl = growth - difference
        if options.beta:
            loss = loss + options.beta * kl
            g_logprob = g_logprob - weight * options.beta * growth
    loss, grads = weight * loss, {"logprob": g_logprob}
    for name in ("entropy", "self_certainty"):
        coefficient = getattr(options, f"{name}_coef")
        if coefficient:
            loss = loss - coefficient * rows.mean_weight * fields[name]
            grads[name] = -coefficient * rows.mean_weight
    return TokenTerms(loss, kl, clipped, grads)


def sequence_average(active: Tensor, length: int, rows: Tensor | slice) -> Callable[[Tensor], Tensor]:
    """Return the mean over the active tokens of a sequence, in the place of each of its tokens, for `token_terms`.

    Args:
        active: (N,) bool, of all tokens, those of a sequence side by side.
        length: tokens of a sequence, those that are not active included.
        rows: which tokens the values are of: whole sequences, but for tokens that are not active.
    """
    lengths = active.view(-1, length).sum(-1).clamp(min=1)

    def average(values: Tensor) -> Tensor:
        whole = values.new_zeros(active.shape)
        whole[rows] = values
        means = whole.where(active, 0).view(-1, length).sum(-1) / lengths
        return means.repeat_interleave(length).where(active, 0)[rows]

    return average
