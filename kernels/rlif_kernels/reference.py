"""The definition of every op in plain torch: what the tests compare with, and what a reader reads first.

Nothing here is fast. Everything here works in any floating dtype, float64 included, and differentiates through
ordinary autograd; bfloat16 and float16 logits are promoted to float32 first.
"""

from typing import Any

import torch
from torch import Tensor

from rlif_kernels.checks import check_values
from rlif_kernels.pairs import KINDS, Divergence
from rlif_kernels.policy_loss import GRPOLoss, policy_loss
from rlif_kernels.requested import requested_fields
from rlif_kernels.rows import PER_TARGET, Rows
from rlif_kernels.stats import DEFAULT_OUTPUTS, IGNORE_INDEX, NO_COLUMN, TOP_FIELDS, TokenStats


def token_stats(
    logits: Tensor,
    targets: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    mask: Tensor | None = None,
    vocab_size: int | None = None,
    softcap: float | None = None,
    outputs: tuple[str, ...] = DEFAULT_OUTPUTS,
    top_logprobs: int | None = None,
) -> TokenStats:
    """Statistics of each row of `logits` (..., V) at the chosen `targets` (...): see `TokenStats` for the formulas.

    With `targets` of shape (..., K), `logprob` and `target_rank` are (..., K).

    The arguments are those of `rlif_kernels.token_stats`. The results have the logits' dtype, or float32 if that is
    a half-precision type. Raises IndexError if a target that is not masked lies outside ``[0, vocab_size)``.
    """
    several = targets.ndim == logits.ndim
    ids = targets.long() if several else targets.long()[..., None]
    counts = ids != IGNORE_INDEX
    if mask is not None:
        counts = counts & mask[..., None]
    active = counts.any(-1)
    num_columns = logits.shape[-1] if vocab_size is None else vocab_size
    ids = ids.where(counts, IGNORE_INDEX)
    check_values(Rows.of(ids if several else ids[..., 0], logits.ndim - 1, temperature, 0.0, num_columns))
    ids = ids.where(counts, 0)
    outputs, top = requested_fields(outputs, top_logprobs)

    poison, support, z, largest, logsumexp = _distribution(logits[..., :num_columns], active, temperature, softcap)
    support_size = support.sum(-1)
    logp = (z - logsumexp).where(support, 0)
    p = logp.exp().where(support, 0)
    on_support = support.gather(-1, ids)
    chosen = logp.gather(-1, ids)

    values: dict[str, Tensor] = {}
    if "logprob" in outputs:
        logprob = chosen.where(on_support, -torch.inf - logsumexp)
        values["logprob"] = logprob if several else logprob[..., 0]
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
    if "varentropy" in outputs:
        mean = (p * logp).sum(-1, keepdim=True)
        values["varentropy"] = (p * (logp - mean).square()).sum(-1)
    # The order is that of the logits as they are: a softcap may round two of them to the same.
    x = logits.detach()[..., :num_columns]
    if "argmax" in outputs:
        values["argmax"] = x.argmax(-1)  # of several the first
    if "target_rank" in outputs:
        ranks = torch.stack([(x > x.gather(-1, each[..., None])).sum(-1) for each in ids.unbind(-1)], -1)
        values["target_rank"] = ranks if several else ranks[..., 0]
    if top:
        values |= _top_fields(x, logp, support, top)
    undefined = poison.isnan()
    for name in list(values):
        if name not in outputs:
            del values[name]
            continue
        value = values[name]
        own = (..., *(None for _ in value.shape[active.ndim :]))  # fields may have a dimension of their own
        defined = value + poison[own] if value.is_floating_point() else value.masked_fill(undefined[own], NO_COLUMN)
        values[name] = defined.where(active[own], 0)
    if several:
        for name in PER_TARGET:
            if name in values:
                values[name] = values[name].where(counts, 0)
    return TokenStats(**values)


def _top_fields(x: Tensor, logp: Tensor, support: Tensor, count: int) -> dict[str, Tensor]:
    """TOP_FIELDS of rows of logits x (..., V)."""
    ids = x.sort(dim=-1, descending=True, stable=True).indices[..., :count]  # of several the first
    missing = (*x.shape[:-1], count - ids.shape[-1])  # where the vocabulary has fewer columns
    inside = torch.cat([support.gather(-1, ids), support.new_zeros(missing)], -1)
    ids = torch.cat([ids, ids.new_zeros(missing)], -1)
    top = logp.gather(-1, ids).masked_fill(~inside, -torch.inf)
    log_r = (top - top.logsumexp(-1, keepdim=True)).where(inside, 0)
    entropy = -(log_r.exp() * log_r).where(inside, 0).sum(-1)
    values = (ids.masked_fill(~inside, NO_COLUMN), top, entropy, top.exp().sum(-1))
    return dict(zip(TOP_FIELDS, values, strict=True))


def _distribution(
    logits: Tensor, active: Tensor, temperature: float | Tensor, softcap: float | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What softmax(softcap(logits) / temperature) of each row is made of.

    Returns:
        0, or NaN where there is no distribution (...); the columns in the support (..., V); z less its largest, 0
        outside the support (..., V); the largest z, and the logsumexp of z less it (..., 1).
    """
    if logits.dtype in (torch.bfloat16, torch.float16):
        logits = logits.float()
    logits = logits.where(active[..., None], 0)  # a masked row takes no part, whatever it holds

    # A column of -inf is outside the support: no probability, no gradient, not counted in V.
    support = logits != -torch.inf
    # NaN and +inf anywhere, or nothing but -inf, leave no distribution: the row's results are NaN.
    undefined = (logits.isnan() | (logits == torch.inf)).any(-1) | ~support.any(-1)

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
    return poison, support, (z - largest).where(support, 0), largest, logsumexp


def linear_token_stats(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, bias: Tensor | None = None, **options: Any
) -> TokenStats:
    """`token_stats` of ``hidden @ weight.T + bias``; the options are those of `token_stats`."""
    return token_stats(torch.nn.functional.linear(hidden, weight, bias), targets, **options)


def grpo_loss(
    logits: Tensor,
    targets: Tensor,
    advantages: Tensor,
    old_logprob: Tensor | None = None,
    ref_logprob: Tensor | None = None,
    *,
    ref_logits: Tensor | None = None,
    mask: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    vocab_size: int | None = None,
    softcap: float | None = None,
    kl: str = "k3",
    **options: Any,
) -> GRPOLoss:
    """Compute the loss of GRPO from logits (..., T, V): `token_stats`, then `policy_loss`, whose options these are.

    With `kl` "full" the penalty is of KL(policy ‖ reference) itself, from `ref_logits`.
    """
    active = targets != IGNORE_INDEX
    if mask is not None:
        active = active & mask
    stats = token_stats(logits, targets, temperature=temperature, mask=active, vocab_size=vocab_size, softcap=softcap)
    full_kl = None
    if kl == "full":
        assert ref_logits is not None
        num_columns = logits.shape[-1] if vocab_size is None else vocab_size
        sides = ((logits, temperature, softcap), (ref_logits.detach(), temperature, softcap))
        full_kl = _divergences(sides, active, num_columns, "reverse_kl", 0.5)["value"]
    return policy_loss(stats, advantages, old_logprob, ref_logprob, mask=active, full_kl=full_kl, kl=kl, **options)


def linear_grpo_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    advantages: Tensor,
    old_logprob: Tensor | None = None,
    ref_logprob: Tensor | None = None,
    *,
    bias: Tensor | None = None,
    ref_hidden: Tensor | None = None,
    ref_weight: Tensor | None = None,
    ref_bias: Tensor | None = None,
    **options: Any,
) -> GRPOLoss:
    """`grpo_loss` of ``hidden @ weight.T + bias``, and of the same of the reference, whose head may be the policy's."""
    logits = torch.nn.functional.linear(hidden, weight, bias)
    if ref_hidden is not None:
        ref_weight, ref_bias = (weight, bias) if ref_weight is None else (ref_weight, ref_bias)
        options["ref_logits"] = torch.nn.functional.linear(ref_hidden, ref_weight, ref_bias)
    return grpo_loss(logits, targets, advantages, old_logprob, ref_logprob, **options)


def divergence(
    logits: Tensor,
    teacher_logits: Tensor,
    *,
    kind: str,
    beta: float = 0.5,
    token_weight: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    teacher_temperature: float | Tensor | None = None,
    mask: Tensor | None = None,
    vocab_size: int | None = None,
    softcap: float | None = None,
    teacher_softcap: float | None = None,
    outputs: tuple[str, ...] = ("value",),
) -> Divergence:
    """How far the distributions p of `logits` (..., V) are from q of `teacher_logits` (..., V'), row by row.

    The arguments are those of `rlif_kernels.divergence`, which has the formulas. The results have the logits' dtype, or
    float32 if that is a half-precision type.
    """
    num_columns = min(logits.shape[-1], teacher_logits.shape[-1]) if vocab_size is None else vocab_size
    active = torch.ones(logits.shape[:-1], dtype=torch.bool, device=logits.device) if mask is None else mask
    if teacher_temperature is None:
        teacher_temperature = temperature
    sides = ((logits, temperature, softcap), (teacher_logits.detach(), teacher_temperature, teacher_softcap))
    values = _divergences(sides, active, num_columns, kind, beta)
    weight = active / active.sum().clamp(min=1) if token_weight is None else token_weight.where(active, 0)
    loss = (values["value"] * weight).sum()
    return Divergence(loss, **{name: value.detach() for name, value in values.items() if name in outputs})


Side = tuple[Tensor, float | Tensor, float | None]  # logits, temperature, softcap


def _divergences(
    sides: tuple[Side, Side], active: Tensor, num_columns: int, kind: str, beta: float
) -> dict[str, Tensor]:
    """PAIR_OUTPUTS of each row, differentiable, from the student's side and the teacher's; 0 where not active."""
    (poison, support, z, _, logsumexp), (teacher_poison, teacher_support, u, _, teacher_logsumexp) = (
        _distribution(logits[..., :num_columns], active, temperature, softcap) for logits, temperature, softcap in sides
    )
    logp, logq = (z - logsumexp).where(support, 0), (u - teacher_logsumexp).where(teacher_support, 0)
    p, q = logp.exp().where(support, 0), logq.exp().where(teacher_support, 0)
    both = support & teacher_support
    # Infinite where one side gives probability to a column that the other side lacks. A product with it would be NaN.
    infinite = torch.zeros_like(logp[..., 0]).masked_fill((support & ~teacher_support).any(-1), torch.inf)
    teacher_infinite = torch.zeros_like(infinite).masked_fill((teacher_support & ~support).any(-1), torch.inf)

    values = {
        "entropy": -(p * logp).sum(-1),
        "teacher_entropy": -(q * logq).sum(-1),
        "cross_entropy": -(p * logq).sum(-1) + infinite,
        "teacher_cross_entropy": -(q * logp).sum(-1) + teacher_infinite,
    }
    if kind == "jsd" and beta not in (0, 1):
        m = (1 - beta) * p + beta * q
        logm = m.where(m > 0, 1).log()
        values["value"] = (beta * q * (logq - logm) + (1 - beta) * p * (logp - logm)).sum(-1)
    elif kind == "reverse_kl" or (kind == "jsd" and beta == 1):
        # An infinite sum has no derivative: the factor makes its gradient NaN in the columns of the support.
        values["value"] = (p * (logp - logq).where(both, 0)).sum(-1) + infinite * (1 + (p - p.detach()).sum(-1))
    elif kind in KINDS:
        # Of log p = z - logsumexp the second part is the same for all columns, and q sums up to 1.
        values["value"] = (q * (logq - z).where(both, 0)).sum(-1) + logsumexp[..., 0] + teacher_infinite
    else:
        raise ValueError(f"kind is {kind!r}; expected one of {KINDS}")
    return {name: (value + poison + teacher_poison).where(active, 0) for name, value in values.items()}


def linear_divergence(
    hidden: Tensor,
    weight: Tensor,
    teacher_hidden: Tensor,
    teacher_weight: Tensor,
    *,
    bias: Tensor | None = None,
    teacher_bias: Tensor | None = None,
    **options: Any,
) -> Divergence:
    """`divergence` of ``hidden @ weight.T + bias`` and the same of the teacher, with the options of `divergence`."""
    logits = torch.nn.functional.linear(hidden, weight, bias)
    return divergence(logits, torch.nn.functional.linear(teacher_hidden, teacher_weight, teacher_bias), **options)
