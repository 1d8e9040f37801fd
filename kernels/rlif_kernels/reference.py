"""The definition of every op in plain torch: what the tests compare with, and what a reader reads first.

Nothing here is fast. Everything here works in any floating dtype, float64 included, and differentiates through
ordinary autograd; bfloat16 and float16 logits are promoted to float32 first.
"""

from typing import Any

import torch
from torch import Tensor

from rlif_kernels.policy_loss import GRPOLoss
from rlif_kernels.stats import DEFAULT_OUTPUTS, IGNORE_INDEX, TokenStats


def token_stats(
    logits: Tensor,
    targets: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    mask: Tensor | None = None,
    vocab_size: int | None = None,
    softcap: float | None = None,
    outputs: tuple[str, ...] = DEFAULT_OUTPUTS,
) -> TokenStats:
    """Statistics of each row of `logits` (..., V) at the chosen `targets` (...): see `TokenStats` for the formulas.

    The arguments are those of `rlif_kernels.token_stats`. The results have the logits' dtype, or float32 if that is
    a half-precision type. Raises IndexError if a target that is not masked lies outside ``[0, vocab_size)``.
    """
    active = targets != IGNORE_INDEX
    if mask is not None:
        active = active & mask
    num_columns = logits.shape[-1] if vocab_size is None else vocab_size
    check_targets(targets, active, num_columns)
    check_temperatures(temperature, active)
    targets = targets.where(active, 0).long()

    logits = logits[..., :num_columns]
    if logits.dtype in (torch.bfloat16, torch.float16):
        logits = logits.float()
    logits = logits.where(active[..., None], 0)  # a masked row takes no part, whatever it holds

    # A column of -inf is outside the support: no probability, no gradient, not counted in V.
    support = logits != -torch.inf
    support_size = support.sum(-1)
    # NaN and +inf anywhere, or nothing but -inf, leave no distribution: the row's results are NaN.
    undefined = (logits.isnan() | (logits == torch.inf)).any(-1) | (support_size == 0)

    z = logits.where(support, 0)
    if softcap is not None:
        z = softcap * torch.tanh(z / softcap)
    if isinstance(temperature, Tensor):
        temperature = temperature.to(z.dtype)[..., None]
    z = z / temperature

    poison = torch.zeros_like(z[..., 0]).masked_fill(undefined, torch.nan)
    z = z + poison[..., None]
    largest = z.detach().masked_fill(~support, -torch.inf).amax(-1, keepdim=True)
    logsumexp = (z - largest).masked_fill(~support, -torch.inf).logsumexp(-1, keepdim=True)
    logp = (z - largest - logsumexp).where(support, 0)
    p = logp.exp().where(support, 0)
    on_support = support.gather(-1, targets[..., None])[..., 0]
    chosen = logp.gather(-1, targets[..., None])[..., 0]

    values: dict[str, Tensor] = {}
    if "logprob" in outputs:
        values["logprob"] = chosen.where(on_support, -torch.inf - logsumexp[..., 0])
    if "entropy" in outputs:
        values["entropy"] = -(p * logp).sum(-1)
    if "self_certainty" in outputs:
        values["self_certainty"] = -(logp.sum(-1) / support_size) - support_size.to(z.dtype).log()
    if "logsumexp" in outputs:
        values["logsumexp"] = (largest + logsumexp)[..., 0]
    if "sum_sq_probs" in outputs:
        values["sum_sq_probs"] = p.square().sum(-1)
    if "top_probs" in outputs:
        # A vocabulary of one column has no second largest probability: it is 0.
        at_least_two = torch.cat([p.detach(), torch.zeros_like(p[..., :1].detach())], -1)
        values["top_probs"] = at_least_two.topk(2, -1).values
    for name, value in values.items():
        per_row = (poison, active) if name != "top_probs" else (poison[..., None], active[..., None])
        values[name] = (value + per_row[0]).where(per_row[1], 0)
    return TokenStats(**values)


def check_values(targets: Tensor, temperature: float | Tensor, num_columns: int) -> None:
    """`check_targets` and `check_temperatures` of the rows that are not masked."""
    active = targets != IGNORE_INDEX
    check_targets(targets, active, num_columns)
    check_temperatures(temperature, active)


def check_targets(targets: Tensor, active: Tensor, num_columns: int) -> None:
    """Raise IndexError naming the first active target outside ``[0, num_columns)``."""
    bad = active & ((targets < 0) | (targets >= num_columns))
    if bad.any():
        position = tuple(bad.nonzero()[0].tolist())
        raise IndexError(
            f"targets{list(position)} is {int(targets[position])}; expected an id in [0, {num_columns}), "
            f"or {IGNORE_INDEX} for a row to skip"
        )


def check_temperatures(temperature: float | Tensor, active: Tensor) -> None:
    """Raise ValueError naming the first active row whose temperature is not positive."""
    if isinstance(temperature, Tensor):
        bad = ~(temperature > 0) & active
        if bad.any():
            position = tuple(bad.nonzero()[0].tolist())
            raise ValueError(
                f"temperature{list(position)} is {float(temperature[position])}; expected a positive number"
            )


def linear_token_stats(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, bias: Tensor | None = None, **options: Any
) -> TokenStats:
    """`token_stats` of ``hidden @ weight.T + bias``; the options are those of `token_stats`."""
    return token_stats(torch.nn.functional.linear(hidden, weight, bias), targets, **options)


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
    """The loss of GRPO from the statistics of the tokens: the definition of what `grpo_loss` does after `token_stats`.

    Args:
        stats: with `logprob`, and `entropy` or `self_certainty` if its coefficient is not 0; (..., T), the last
            dimension running over a sequence's tokens.
        advantages: (...), one for each sequence, or (..., T).
        mask: (..., T) bool, the tokens that count.

    The other arguments are those of `rlif_kernels.grpo_loss`. Returns `GRPOLoss`, in the dtype of the statistics.
    """
    logprob = stats.logprob
    assert logprob is not None
    if advantages.ndim < logprob.ndim:
        advantages = advantages[..., None]
    lengths = mask.sum(-1, keepdim=True).clamp(min=1)
    # On-policy the ratio is 1 in value and has the gradient of the log-probability.
    log_ratio = logprob - (logprob.detach() if old_logprob is None else old_logprob)
    log_ratio = log_ratio.where(mask, 0)
    if importance_sampling_level == "sequence":
        log_ratio = (log_ratio.sum(-1, keepdim=True) / lengths).expand_as(logprob)
    ratio = log_ratio.exp()
    low, high = 1 - epsilon_low, 1 + (epsilon_low if epsilon_high is None else epsilon_high)
    capped = ratio if delta is None else ratio.clamp(max=delta)
    token_loss = -torch.minimum(capped * advantages, ratio.clamp(low, high) * advantages)
    clipped = ((ratio < low) & (advantages < 0)) | ((ratio > high) & (advantages > 0))
    kl = None
    if ref_logprob is not None:
        # "k3": unbiased under the policy's own samples, never negative (http://joschu.net/blog/kl-approx.html).
        difference = (ref_logprob - logprob).where(mask, 0)
        kl = torch.expm1(difference) - difference
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


def grpo_loss(
    logits: Tensor,
    targets: Tensor,
    advantages: Tensor,
    old_logprob: Tensor | None = None,
    ref_logprob: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    vocab_size: int | None = None,
    softcap: float | None = None,
    **options: Any,
) -> GRPOLoss:
    """The loss of GRPO from logits (..., T, V): `token_stats`, then `policy_loss`, whose options these are."""
    active = targets != IGNORE_INDEX
    if mask is not None:
        active = active & mask
    stats = token_stats(logits, targets, temperature=temperature, mask=active, vocab_size=vocab_size, softcap=softcap)
    return policy_loss(stats, advantages, old_logprob, ref_logprob, mask=active, **options)


def linear_grpo_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    advantages: Tensor,
    old_logprob: Tensor | None = None,
    ref_logprob: Tensor | None = None,
    *,
    bias: Tensor | None = None,
    **options: Any,
) -> GRPOLoss:
    """`grpo_loss` of ``hidden @ weight.T + bias``."""
    logits = torch.nn.functional.linear(hidden, weight, bias)
    return grpo_loss(logits, targets, advantages, old_logprob, ref_logprob, **options)
