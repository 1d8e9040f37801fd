"""The loss of GRPO and its kin, token by token: what a token adds to the loss, and the derivative, in closed form.

The derivative needs nothing but the token's own statistics, which is why the fused losses can write the gradient of a
row's logits while the row is still at hand. With A the advantage, r = exp(logprob - old_logprob) the ratio, d =
ref_logprob - logprob, and w, v the token's weights in the loss and in the means of the two terms:

    loss = w (-min(min(r, delta) A, clamp(r, 1 - epsilon_low, 1 + epsilon_high) A) + beta (exp(d) - d - 1))
           - v (entropy_coef entropy + self_certainty_coef self_certainty)

    d loss / d logprob        = w (-A r [not clipped] + beta (1 - exp(d)))
    d loss / d entropy        = -v entropy_coef
    d loss / d self_certainty = -v self_certainty_coef

Sources: GRPO arXiv 2402.03300; DAPO's token mean and asymmetric clip 2503.14476; Dr. GRPO 2503.20783; the two-sided
clip (delta) 2505.07291; the sequence-level ratio, GSPO, 2507.18071. Names and normalisations are TRL's GRPOConfig's.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from rlif_kernels.stats import TokenStats

LOSS_TYPES = ("grpo", "bnpo", "dr_grpo", "dapo")
IMPORTANCE_SAMPLING_LEVELS = ("token", "sequence")


class GRPOLoss(NamedTuple):
    """The loss, which carries the gradient, and what is worth logging about each token, detached.

    All but `loss` are shaped like the targets, 0 (False) in masked rows, and None where not requested.
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


def token_weights(
    active: Tensor,
    loss_type: str,
    num_items_in_batch: int | Tensor | None,
    max_completion_length: int | None,
    loss_scale: float,
) -> tuple[Tensor, Tensor]:
    """The weight of each token of (..., T) in the loss and in the mean over tokens, float32; 0 where not active.

    A loss of type "grpo" is the mean over sequences of the mean over a sequence's tokens, "bnpo" the mean over tokens,
    "dapo" their sum divided by `num_items_in_batch`, "dr_grpo" their sum divided by the number of sequences and by
    `max_completion_length`.
    """
    counted = active.float()
    num_tokens: float | Tensor = counted.sum().clamp(min=1)
    num_sequences = max(1, active[..., 0].numel()) if active.shape[-1] else 1
    if loss_type == "grpo":
        weight = counted / counted.sum(-1, keepdim=True).clamp(min=1) * (loss_scale / num_sequences)
    elif loss_type == "dr_grpo":
        weight = counted * (loss_scale / (num_sequences * (max_completion_length or max(1, active.shape[-1]))))
    else:
        weight = counted / num_tokens * loss_scale
    if num_items_in_batch is not None:
        num_tokens = torch.as_tensor(num_items_in_batch, dtype=torch.float32, device=active.device).clamp(min=1)
    mean_weight = counted / num_tokens * loss_scale
    return (mean_weight if loss_type == "dapo" else weight), mean_weight


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
    """The loss of GRPO from statistics that carry a gradient: what `grpo_loss` computes after its `token_stats`.

    It serves where the statistics themselves decide the advantages, so that both come from one forward: reward from
    the detached statistics, loss from the same ones. Autograd differentiates it; per token, with the w, v, A, r and d
    of the module's docstring,

    | gradient to | is |
    | --- | --- |
    | `logprob` | w (-A r [not clipped] + beta (1 - exp(d))) |
    | `entropy` | -v entropy_coef |
    | `self_certainty` | -v self_certainty_coef |

    Args:
        stats: (..., T) with `logprob`, and with `entropy` or `self_certainty` if its coefficient is not 0; nats. The
            last dimension runs over a sequence's tokens.
        advantages: (...), one for each sequence, or (..., T), one for each token.
        old_logprob: (..., T), of the policy that sampled. None on-policy: the ratio is 1.
        ref_logprob: (..., T), of the reference that `beta` holds on to.
        mask: (..., T) bool, the tokens that count. What stands in the others may be anything.

    The options are those of `grpo_loss`.

    Returns:
        `GRPOLoss`: the loss with its gradient, and what is worth logging, detached; 0 where `mask` is False but for the
        statistics, which are returned as they came.

    Raises:
        ValueError: an option is not known, or a statistic or `ref_logprob` that the options need is missing.
    """
    for name, value, choices in (
        ("loss_type", loss_type, LOSS_TYPES),
        ("importance_sampling_level", importance_sampling_level, IMPORTANCE_SAMPLING_LEVELS),
    ):
        if value not in choices:
            raise ValueError(f"{name} is {value!r}; expected one of {choices}")
    for name, coefficient in (("entropy", entropy_coef), ("self_certainty", self_certainty_coef)):
        if coefficient and getattr(stats, name) is None:
            raise ValueError(f"stats.{name} is None and {name}_coef {coefficient}; expected the statistic, or 0")
    if stats.logprob is None:
        raise ValueError("stats.logprob is None; expected the log-probabilities that the loss is made of")
    if beta and ref_logprob is None:
        raise ValueError(f"beta is {beta} and ref_logprob is None; expected the reference's log-probabilities, or 0")
    if advantages.ndim < mask.ndim:
        advantages = advantages[..., None]
    average = None
    if importance_sampling_level == "sequence":
        lengths = mask.sum(-1, keepdim=True).clamp(min=1)

        def average(values: Tensor) -> Tensor:
            return (values.sum(-1, keepdim=True) / lengths).expand_as(values)

    entropy, self_certainty, old, ref = (
        None if value is None else value.where(mask, 0)
        for value in (stats.entropy, stats.self_certainty, old_logprob, ref_logprob)
    )
    weights = token_weights(mask, loss_type, num_items_in_batch, max_completion_length, loss_scale)
    options = LossOptions(
        epsilon_low,
        epsilon_low if epsilon_high is None else epsilon_high,
        math.inf if delta is None else delta,
        beta,
        entropy_coef,
        self_certainty_coef,
    )
    tokens = token_loss(
        stats.logprob.where(mask, 0),
        entropy,
        self_certainty,
        rows=LossRows(advantages, *weights, old, ref),
        options=options,
        average=average,
    )
    detached = (None if value is None else value.detach() for value in (*stats[:3], tokens.kl, tokens.clipped & mask))
    return GRPOLoss(tokens.loss.sum(), *detached)


class TokenLoss(NamedTuple):
    """What each token adds to the loss, differentiable, and what its derivative is made of."""

    loss: Tensor
    kl: Tensor | None
    clipped: Tensor
    ratio: Tensor
    flows: Tensor
    """bool: whether the loss moves with the ratio, which is not clipped then."""


def token_loss(
    logprob: Tensor,
    entropy: Tensor | None,
    self_certainty: Tensor | None,
    *,
    rows: LossRows,
    options: LossOptions,
    average: Callable[[Tensor], Tensor] | None = None,
) -> TokenLoss:
    """The loss from the statistics of each token; the arguments are those of `token_terms`."""
    advantage = rows.advantage
    # On-policy the ratio is exactly 1, but NaN where the log-probability is NaN.
    log_ratio = logprob - (logprob.detach() if rows.old_logprob is None else rows.old_logprob)
    if average is not None:
        log_ratio = average(log_ratio)
    ratio = log_ratio.exp()
    low, high = 1 - options.epsilon_low, 1 + options.epsilon_high
    capped, in_range = ratio.clamp(max=options.delta) * advantage, ratio.clamp(low, high) * advantage
    # Where both are equal, either the ratio is in range or the advantage is 0: both give the same derivative.
    flows = torch.where(capped <= in_range, ratio <= options.delta, (ratio >= low) & (ratio <= high))
    loss = -torch.minimum(capped, in_range)
    clipped = ((ratio < low) & (advantage < 0)) | ((ratio > high) & (advantage > 0))
    kl = None if rows.ref_logprob is None else k3_kl(logprob, rows.ref_logprob)
    if kl is not None and options.beta:
        loss = loss + options.beta * kl
    loss = rows.weight * loss
    for name, value in (("entropy", entropy), ("self_certainty", self_certainty)):
        coefficient = getattr(options, f"{name}_coef")
        if coefficient:
            assert value is not None
            loss = loss - coefficient * rows.mean_weight * value
    return TokenLoss(loss, kl, clipped, ratio, flows)


def token_terms(
    logprob: Tensor,
    entropy: Tensor | None,
    self_certainty: Tensor | None,
    *,
    rows: LossRows,
    options: LossOptions,
    average: Callable[[Tensor], Tensor] | None = None,
) -> TokenTerms:
    """The loss and its derivative from the statistics of each token, (N,).

    Args:
        logprob: float32; `entropy` and `self_certainty` alike, needed where their coefficient is not 0.
        rows: what the tokens bring along.
        options: the numbers of the loss.
        average: puts the mean of a sequence in the place of its tokens' log-ratios, where the ratio is a sequence's:
            see `sequence_average`.
    """
    loss, kl, clipped, ratio, flows = token_loss(
        logprob, entropy, self_certainty, rows=rows, options=options, average=average
    )
    g_logprob = rows.weight * -(rows.advantage * ratio).where(flows | ratio.isnan(), 0)
    if average is not None:
        # Every token of the sequence moves the ratio, and thereby the loss of each, whose advantages may differ.
        g_logprob = average(g_logprob)
    if rows.ref_logprob is not None and options.beta:
        g_logprob = g_logprob - rows.weight * options.beta * torch.expm1(rows.ref_logprob - logprob)
    grads = {"logprob": g_logprob}
    for name in ("entropy", "self_certainty"):
        coefficient = getattr(options, f"{name}_coef")
        if coefficient:
            grads[name] = -coefficient * rows.mean_weight
    return TokenTerms(loss, kl, clipped, grads)


def sequence_average(active: Tensor, length: int, rows: Tensor | slice) -> Callable[[Tensor], Tensor]:
    """The mean over the active tokens of a sequence, in the place of each of its tokens, for `token_terms`.

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
        return means.repeat_interleave(length)[rows]

    return average
