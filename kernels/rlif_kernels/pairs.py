"""Divergences of two distributions: the result, and what follows from the sums over a pair of rows.

A row of the student's logits and one of the teacher's have the columns in common. With z = softcap(logits) /
temperature of each, p = softmax(z) of the student and q of the teacher, d = z - max z, e = exp d, and D, E the same of
the teacher's, one look at both rows has the sums

    s = sum e,   w = sum e d,   a = sum e (d - D)    and of the teacher   S = sum E,   W = sum E D,   A = sum E (D - d)

    KL(p || q) = a/s - log s + log S        H(p) = log s - w/s        H(p, q) = log S - (w - a)/s
    KL(q || p) = A/S - log S + log s        H(q) = log S - W/S        H(q, p) = log s - (W - A)/S

The Jensen-Shannon divergence needs the normalisers first, and with them a second look, at x = log(q/p):

    m = (1 - beta) p + beta q        log(p/m) = -log(1 - beta + beta exp x)     and log(q/m) = x + log(p/m)

in a form whose exponential is at most 1. All of these differences are exactly 0 where p = q.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from rlif_kernels.checks import check_temperatures
from rlif_kernels.rows import Rows
from rlif_kernels.stats import IGNORE_INDEX

KINDS = ("forward_kl", "reverse_kl", "jsd")
PAIR_OUTPUTS = ("value", "entropy", "teacher_entropy", "cross_entropy", "teacher_cross_entropy")


class Divergence(NamedTuple):
    """A divergence of the student's distribution p and the teacher's q, summed up, and of each token.

    The fields after `loss` are float32, detached, shaped like the rows, in nats, 0 in masked rows, and None where not
    requested.
    """

    loss: Tensor
    """() float32: what the tokens' values come to by their weights; carries the gradient to the student."""
    value: Tensor | None = None
    """The divergence of each token, at least 0; infinite where its definition says so."""
    entropy: Tensor | None = None
    """H(p) = -sum p log p."""
    teacher_entropy: Tensor | None = None
    """H(q)."""
    cross_entropy: Tensor | None = None
    """H(p, q) = -sum p log q = H(p) + KL(p || q)."""
    teacher_cross_entropy: Tensor | None = None
    """H(q, p) = -sum q log p = H(q) + KL(q || p): what a student learns from soft labels."""


class Pair(NamedTuple):
    """What a backend is told of the rows of two tensors of logits; N is their number."""

    logits: Tensor
    """(..., V)."""
    teacher_logits: Tensor
    """(..., V'), on the same device; the dtype may differ."""
    rows: Rows
    teacher_rows: Rows
    """The same targets, of which only IGNORE_INDEX, a row to skip, counts, and the same number of columns."""
    kind: str
    beta: float
    """Of "jsd", strictly between 0 and 1."""
    weight: Tensor
    """(N,) float32: of each row in the loss; 0 where it is masked."""
    outputs: tuple[str, ...]
    """Those of PAIR_OUTPUTS that are asked for, `value` or none; a backend may return others too."""


class PairSums(NamedTuple):
    """What one look at a pair of rows comes to: names for the rows of a float64 tensor (12, N)."""

    m: Tensor
    """The largest (capped) logit; -inf without support."""
    s: Tensor
    a: Tensor
    """Over the columns that both have in their support."""
    w: Tensor
    n: Tensor
    """Columns in the support."""
    only: Tensor
    """Those of them that the teacher's support lacks."""
    teacher_m: Tensor
    teacher_s: Tensor
    teacher_a: Tensor
    teacher_w: Tensor
    teacher_n: Tensor
    teacher_only: Tensor


class PairState(NamedTuple):
    """What a later look at a pair of rows starts from: names for the rows of a float64 tensor (6, N)."""

    m: Tensor
    log_s: Tensor
    teacher_m: Tensor
    teacher_log_s: Tensor
    mean: Tensor
    """What the gradient subtracts: KL(p || q) of "reverse_kl", KL(p || m) of "jsd"; NaN where that is infinite."""
    guarded: Tensor
    """1 where a column lies outside a support."""


NUM_SUMS, NUM_STATE = len(PairSums._fields), len(PairState._fields)


def pair_results(sums: Tensor, num_columns: int) -> tuple[Tensor, dict[str, Tensor]]:
    """The state of each row, but for the mean of "jsd", and its results, float64 (N,), by name: those of
    PAIR_OUTPUTS less `value`, and each of the KLs by its kind."""
    own = PairSums(*sums)
    # No support, or NaN: no distribution, and NaN in all of the row's results.
    s, teacher_s = (each.where(each > 0, torch.nan) for each in (own.s, own.teacher_s))
    poison = 0 * (s + teacher_s)
    log_s, teacher_log_s = s.log() + poison, teacher_s.log() + poison
    infinite, teacher_infinite = own.only > 0, own.teacher_only > 0

    def unless(value: Tensor, is_infinite: Tensor) -> Tensor:
        return value.masked_fill(is_infinite & ~log_s.isnan(), torch.inf)

    reverse = (own.a / s - log_s + teacher_log_s).clamp(min=0)
    results = {
        "forward_kl": unless((own.teacher_a / teacher_s - teacher_log_s + log_s).clamp(min=0), teacher_infinite),
        "reverse_kl": unless(reverse, infinite),
        "entropy": log_s - own.w / s,
        "teacher_entropy": teacher_log_s - own.teacher_w / teacher_s,
        "cross_entropy": unless(teacher_log_s - (own.w - own.a) / s, infinite),
        "teacher_cross_entropy": unless(log_s - (own.teacher_w - own.teacher_a) / teacher_s, teacher_infinite),
    }
    mean = reverse.masked_fill(infinite, torch.nan)
    return torch.stack([own.m, log_s, own.teacher_m, teacher_log_s, mean, _guarded(own, num_columns)]), results


def with_mixture(state: Tensor, results: dict[str, Tensor], mixture: Tensor, beta: float) -> None:
    """Put the Jensen-Shannon divergence into the results, and the mean of its gradient into the state.

    Args:
        mixture: (2, N) float64, KL(p || m) and KL(q || m).
    """
    of_student, of_teacher = mixture
    PairState(*state).mean.copy_(of_student)
    results["jsd"] = ((1 - beta) * of_student + beta * of_teacher).clamp(min=0)


def pair_values(results: dict[str, Tensor], pair: Pair, active: Tensor) -> dict[str, Tensor]:
    """PAIR_OUTPUTS, (N,) float32, 0 in masked rows."""
    results = results | {"value": results[pair.kind]}
    return {name: results[name].where(active, 0).float() for name in PAIR_OUTPUTS}


def merge_slices(parts: Tensor, rows: Rows, teacher_rows: Rows) -> Tensor:
    """The sums of whole rows (12, N) from those of slices of their columns (slices, 12, N), relative to the largest
    logits of all."""
    each = PairSums(*parts.unbind(1))
    m, teacher_m = each.m.amax(0), each.teacher_m.amax(0)

    def distance(own: Tensor, largest: Tensor, rows: Rows) -> Tensor:
        # A slice without support has no part in any sum.
        return ((own - largest) / rows.flat_temperature).masked_fill(own == -torch.inf, 0)

    d, teacher_d = distance(each.m, m, rows), distance(each.teacher_m, teacher_m, teacher_rows)
    f, teacher_f = d.exp(), teacher_d.exp()

    def total(factor: Tensor, value: Tensor, shift: Tensor, count: Tensor) -> Tensor:
        return (factor * (value + shift * count)).sum(0)

    return torch.stack([
        m, (f * each.s).sum(0), total(f, each.a, d - teacher_d, each.s), total(f, each.w, d, each.s), each.n.sum(0),
        each.only.sum(0), teacher_m, (teacher_f * each.teacher_s).sum(0),
        total(teacher_f, each.teacher_a, teacher_d - d, each.teacher_s),
        total(teacher_f, each.teacher_w, teacher_d, each.teacher_s), each.teacher_n.sum(0), each.teacher_only.sum(0),
    ])  # fmt: skip


def state_of_slice(state: Tensor, own_sums: Tensor, rows: Rows, teacher_rows: Rows) -> Tensor:
    """The state of whole rows, relative to the largest logits of one slice of their columns, whose sums are given; of
    a slice without support, to those of the whole."""
    whole, own = PairState(*state), PairSums(*own_sums)

    def moved(log_s: Tensor, m: Tensor, own_m: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        own_m = own_m.where(own_m != -torch.inf, m)
        return own_m, log_s + ((m - own_m) / rows.flat_temperature).masked_fill(m == own_m, 0)

    m, log_s = moved(whole.log_s, whole.m, own.m, rows)
    teacher_m, teacher_log_s = moved(whole.teacher_log_s, whole.teacher_m, own.teacher_m, teacher_rows)
    return torch.stack([m, log_s, teacher_m, teacher_log_s, whole.mean, _guarded(own, rows.num_columns)])


def _guarded(sums: PairSums, num_columns: int) -> Tensor:
    return ((sums.n < num_columns) | (sums.teacher_n < num_columns)).to(sums.n.dtype)


def active_rows(pair: Pair) -> Tensor:
    """(N,) bool: the rows that are not masked."""
    return pair.rows.targets.view(-1) != IGNORE_INDEX


def check_pair(pair: Pair) -> None:
    """On a CPU, refuse temperatures that do not divide."""
    if pair.rows.targets.device.type == "cpu":
        active = pair.rows.targets != IGNORE_INDEX
        check_temperatures(pair.rows.temperature, active)
        check_temperatures(pair.teacher_rows.temperature, active, "teacher_temperature")
