"""Forward-mode derivatives of the fields: what they change by when the logits change by a tangent v.

One more pass over the logits, in plain torch for every backend, block of rows by block of rows, in float64. All fields
but the logsumexp stay when the same is added to all logits, so the tangent counts from that of the target's logit: its
probability may be nearly 1. With dz that of z = softcap(logits) / temperature, and w = dz - dz_y:

    logprob = -sum p w                                 entropy = -(sum p log p w + H sum p w)
    self_certainty = sum p w - mean w                  sum p² = 2 (sum p² w - sum p² sum p w)
    logsumexp = dz_y + sum p w                         varentropy = sum p (u² + 2 u - varentropy) w,   u = log p + H

Slices of the vocabulary add up as in `sharded.parallel`: p of the whole is π_r p of slice r, π_r = exp(lse_r - lse).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from rlif_kernels.backends.torch import row_blocks
from rlif_kernels.rows import Rows
from rlif_kernels.stats import IGNORE_INDEX

if TYPE_CHECKING:
    from rlif_kernels.backends.sharded.parallel import VocabParallel


class _SliceSums(NamedTuple):
    """What the columns of a slice come to in each row, float64: names for the rows of a tensor (10, N)."""

    logsumexp: Tensor
    """-inf where the slice has no support; the other sums are then not used."""
    n: Tensor
    entropy: Tensor
    sum_sq_probs: Tensor
    w: Tensor
    p_w: Tensor
    p_logp_w: Tensor
    pp_w: Tensor
    varentropy: Tensor
    p_logp_logp_w: Tensor


def field_tangents(
    tangent: Tensor,
    logits: Tensor,
    rows: Rows,
    outputs: Sequence[str],
    ranks: "VocabParallel | None",
    top_columns: Tensor | None = None,
) -> dict[str, Tensor]:
    """The tangents of the requested fields that are differentiable, flat (N,) float32; 0 in masked rows.

    Args:
        tangent: of the logits, (..., V) as these are.
        top_columns: (N, k), where `top_logprobs` is asked for: the k largest columns, which are targets then.
        ranks: the processes over which the columns are sharded, or None; all of them call this, and two exchanges
            bring eleven numbers a row.
    """
    active = rows.targets.view(-1) != IGNORE_INDEX
    own = targets = rows.flat_targets
    if top_columns is not None:
        targets = torch.cat([own, top_columns.where(active[:, None], IGNORE_INDEX)], -1)
    owned = (targets >= 0) & (targets < rows.num_columns)
    of_targets = _tangents_of_targets(tangent, logits, rows, targets, owned)
    if ranks:
        from rlif_kernels.backends.sharded.slices import INVALID  # slices import the backends

        invalid = targets == INVALID
        ranks.sum_over_slices(of_targets)
    else:
        invalid = (targets != IGNORE_INDEX) & ~owned
    of_target = of_targets[:, 0]
    sums = _slice_sums(tangent, logits, rows, active, of_target)
    parts = ranks.of_all_slices(sums) if ranks else sums[None]
    values = _combine(parts, of_target)
    each = values["logprob"][:, None] + (of_targets - of_target[:, None])
    each = each.masked_fill(invalid, torch.nan).where(targets != IGNORE_INDEX, 0)
    values = {name: value.where(active, 0) for name, value in values.items()}
    of_top = each[:, own.shape[-1] :] + 0 * values["logprob"][:, None]  # NaN where the row is no distribution
    values["logprob"] = each[:, 0] if rows.choices is None else each[:, : own.shape[-1]]
    values["top_logprobs"] = of_top
    return {name: values[name].float() for name in outputs if name in values}


def _tangents_of_targets(tangent: Tensor, logits: Tensor, rows: Rows, targets: Tensor, owned: Tensor) -> Tensor:
    """dz_y of each row and target, (N, K); 0 where the target's column is elsewhere or outside the support."""
    index = targets.where(owned, 0).view(*logits.shape[:-1], targets.shape[-1])
    x, v = (matrix.gather(-1, index).view(targets.shape) for matrix in (logits, tangent))
    temperature = rows.flat_temperature
    tau = temperature[:, None] if isinstance(temperature, Tensor) else temperature
    _, dz, support = _z_and_tangent(x, v, tau, rows.softcap)
    return dz.where(owned & support, 0)


def _slice_sums(tangent: Tensor, logits: Tensor, rows: Rows, active: Tensor, of_target: Tensor) -> Tensor:
    """`_SliceSums` as one tensor."""
    sums = of_target.new_zeros(len(_SliceSums._fields), rows.num_rows)
    sums[0] = -torch.inf
    if not rows.num_columns:
        return sums
    temperature = rows.flat_temperature
    for matrices, local, index in row_blocks([logits, tangent], active, rows.num_columns):
        x, v = (part[local, : rows.num_columns] for part in matrices)
        tau = temperature[index, None] if isinstance(temperature, Tensor) else temperature
        z, dz, support = _z_and_tangent(x, v, tau, rows.softcap)
        m = z.amax(-1, keepdim=True)
        w = dz.sub_(of_target[index, None]).masked_fill_(~support, 0)
        logp = z.sub_(m)
        p = logp.exp()
        s = p.sum(-1, keepdim=True)
        p /= s
        logp.sub_(s.log()).masked_fill_(~support, 0)
        p_w = p * w
        entropy = -(p * logp).sum(-1)
        varentropy = (logp + entropy[:, None]).square_().mul_(p).sum(-1)
        p_logp_w = logp * p_w
        sums[:, index] = torch.stack(
            _SliceSums(
                logsumexp=torch.where(m == -torch.inf, m, m + s.log())[:, 0],
                n=support.sum(-1, dtype=torch.float64),
                entropy=entropy,
                sum_sq_probs=p.square().sum(-1),
                w=w.sum(-1),
                p_w=p_w.sum(-1),
                p_logp_w=p_logp_w.sum(-1),
                pp_w=p_w.mul_(p).sum(-1),
                varentropy=varentropy,
                p_logp_logp_w=p_logp_w.mul_(logp).sum(-1),
            )
        )
    return sums


def _combine(parts: Tensor, of_target: Tensor) -> dict[str, Tensor]:
    """The tangents of the whole rows from the sums of all slices (slices, 10, N), in float64."""
    each = _SliceSums(*parts.unbind(1))  # (slices, N) each
    empty = each.logsumexp == -torch.inf
    total = each.logsumexp.logsumexp(0)
    total = total + 0 * total  # NaN where no slice has support
    log_pi = each.logsumexp - total
    pi = log_pi.exp()

    def sum_of(values: Tensor) -> Tensor:
        return values.masked_fill(empty, 0).sum(0) + 0 * total

    p_w, q = sum_of(pi * each.p_w), sum_of(pi.square() * each.sum_sq_probs)
    surprise = each.entropy - log_pi  # the mean of -log p over a slice
    entropy = sum_of(pi * surprise)
    varentropy = sum_of(pi * (each.varentropy + (surprise - entropy).square()))
    # u of a slice's column is its own log p and this.
    rest = log_pi + entropy
    u_w = each.p_logp_w + rest * each.p_w
    uu_w = each.p_logp_logp_w + 2 * rest * each.p_logp_w + rest.square() * each.p_w
    return {
        "logprob": -p_w,
        "entropy": -(sum_of(pi * (each.p_logp_w + log_pi * each.p_w)) + entropy * p_w),
        "self_certainty": p_w - sum_of(each.w) / sum_of(each.n),
        "logsumexp": of_target + p_w,
        "sum_sq_probs": 2 * (sum_of(pi.square() * each.pp_w) - q * p_w),
        "varentropy": sum_of(pi * (uu_w + 2 * u_w)) - varentropy * p_w,
    }


def _z_and_tangent(x: Tensor, v: Tensor, temperature: float | Tensor, softcap: float) -> tuple[Tensor, Tensor, Tensor]:
    """z and its tangent, new tensors in float64, and which columns are in the support; others' tangents may be any."""
    support = x != -torch.inf
    z, dz = x.to(torch.float64, copy=True), v.to(torch.float64, copy=True)
    if softcap:
        tanh = torch.tanh(z / softcap)
        # tanh would bring an infinity back into the finite range, where the row must know of it.
        z = torch.where(z.isinf(), z, softcap * tanh)
        dz *= 1 - tanh.square()
    return z.div_(temperature), dz.div_(temperature), support
