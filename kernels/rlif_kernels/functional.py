"""The row functional: what each statistic of a row is made of, in one table from which every backend draws.

A row is read once. With m the largest z so far, d = z - m and e = exp d, a backend adds up over the columns of the
support the sums that the requested statistics need. When the maximum moves, every d changes by h = m_old - m_new and
every e by the factor a = exp h; a sum follows without another look at its columns, of which there are n:

| sum | adds up | after the maximum moved | serves |
| --- | --- | --- | --- |
| `s` | e | a s | every row |
| `w` | e d | a (w + h s) | entropy, varentropy |
| `v` | e d² | a (v + 2 h w + h² s) | varentropy |
| `t` | d | t + h n | self-certainty |
| `q` | e² | a² q | collision probability |
| `r` | 1 where the logit is larger than the target's | as it is | the target's rank |
| `x1`, `x2` | nothing: the two largest z | as they are | the largest probabilities |

The largest columns (`argmax`, `top_ids`) are no sums: of parts of the row a backend knows the largest logits when the
read is done, and looks once more at those parts alone that can have one of the largest.

Parts of a row (lanes, chunks, blocks) add up once they are relative to one maximum. v/s - (w/s)² cancels where most of
the probability lies far below the maximum: so parts have maxima of their own, and what is left between them is added
up about the row's own mean, or the two moments are added up in float64.

From the sums come the row's `Moments`, and from these the statistics. A gradient is a polynomial of each column,

    dx_j = p_j (c_p + c_plogp log p_j + c_pp p_j + c_uu u_j (u_j + 2)) - c_1 + c_y 1[j = y],   u_j = log p_j + H,

whose coefficients are one number a row, so that any mixture of upstream gradients is one pass.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from rlif_kernels.stats import FIELDS, TOP_FIELDS

if TYPE_CHECKING:
    from rlif_kernels.rows import RowState


class Moments(NamedTuple):
    """What the sums of a row come to, (N,) each; those that no requested statistic needs are 0."""

    m: Tensor
    """The largest z."""
    log_s: Tensor
    log_mean_s: Tensor
    """log (s/n)."""
    d_y: Tensor
    """d of the target."""
    mean_d: Tensor
    """t/n."""
    mean_w: Tensor
    """w/s, the mean of d under p."""
    variance: Tensor
    """v/s - (w/s)², that of d, or log p, under p."""
    mean_q: Tensor
    """q/s²."""
    top: Tensor
    """(N, 2): the two largest p."""
    rank: Tensor
    """r, int64."""
    top_ids: Tensor
    """(N, k) int64: the columns of the k largest logits."""


class Statistic(NamedTuple):
    """One field of `TokenStats` that backends compute."""

    sums: tuple[str, ...]
    """Those that it needs, beside s."""
    value: Callable[[Moments], Tensor]
    terms: Callable[[Tensor, "RowState"], dict[str, Tensor]] | None
    """What an upstream gradient (N,) adds to the coefficients, `rest` being c_p + c_y; None: detached."""
    shared: tuple[str, ...]
    """What the slices of a sharded vocabulary tell each other of it, by the names in `sharded.parallel`."""
    width: int = 1
    """Numbers a row; several are the field's last dimension."""
    dtype: torch.dtype = torch.float32


STATISTICS = {
    "logprob": Statistic(
        sums=(),
        value=lambda row: row.d_y - row.log_s,
        terms=lambda g, row: {"y": g},
        shared=("logprob", "owner", "complement"),
    ),
    "entropy": Statistic(
        sums=("w",),
        value=lambda row: row.log_s - row.mean_w,
        terms=lambda g, row: {"plogp": -g, "rest": -g * row.entropy},
        shared=("entropy",),
    ),
    "self_certainty": Statistic(
        sums=("t",),
        value=lambda row: row.log_mean_s - row.mean_d,
        terms=lambda g, row: {"1": g / row.n.abs(), "rest": g},
        shared=("self_certainty",),
    ),
    "logsumexp": Statistic(
        sums=(),
        value=lambda row: row.m + row.log_s,
        terms=lambda g, row: {"rest": g},
        shared=(),
    ),
    "sum_sq_probs": Statistic(
        sums=("q",),
        value=lambda row: row.mean_q,
        terms=lambda g, row: {"pp": 2 * g, "rest": -2 * g * row.sum_sq_probs},
        shared=("sum_sq_probs",),
    ),
    "top_probs": Statistic(
        sums=("x1", "x2"),
        value=lambda row: row.top,
        terms=None,
        shared=("top_1", "top_2"),
        width=2,
    ),
    "varentropy": Statistic(
        sums=("w", "v"),
        value=lambda row: row.variance,
        terms=lambda g, row: {"uu": g, "rest": -g * row.varentropy},
        shared=("entropy", "varentropy"),
    ),
    "argmax": Statistic(
        sums=(),
        value=lambda row: row.top_ids[:, 0],
        terms=None,
        shared=("columns", "argmax", "argmax_logit"),
        dtype=torch.int64,
    ),
    "target_rank": Statistic(
        sums=("r",),
        value=lambda row: row.rank,
        terms=None,
        shared=("target_rank",),
        dtype=torch.int64,
    ),
    "top_ids": Statistic(
        sums=(),
        value=lambda row: row.top_ids,
        terms=None,
        shared=("columns",),  # and k ids and logits
        dtype=torch.int64,
    ),
}
# What the library ops return: `top_logprobs` are those of `top_ids`, and the rest of FIELDS follows from them.
OP_FIELDS = (*STATISTICS, "top_logprobs")
assert FIELDS[: len(OP_FIELDS)] == OP_FIELDS

DIFFERENTIABLE = tuple(name for name, statistic in STATISTICS.items() if statistic.terms)


def sums_of(outputs: Iterable[str]) -> frozenset[str]:
    """The sums, beside s, that the requested fields need."""
    return frozenset(name for field in outputs for name in STATISTICS[field].sums)


def op_fields(outputs: Iterable[str]) -> tuple[str, ...]:
    """Those of OP_FIELDS that the requested fields need, in order."""
    needed = set(outputs)
    if needed & set(TOP_FIELDS):
        needed |= {"top_ids", "top_logprobs"}
    return tuple(name for name in OP_FIELDS if name in needed)


def shape_of(name: str, top: int = 0) -> tuple[int, ...]:
    """The dimensions that a field of an op has after those of the rows, with one target each.

    Args:
        top: k of the fields of the k largest columns.
    """
    if name in TOP_FIELDS:
        return (top,)
    width = STATISTICS[name].width
    return () if width == 1 else (width,)


def dtype_of(name: str) -> torch.dtype:
    """The dtype of a field of an op."""
    return torch.float32 if name == "top_logprobs" else STATISTICS[name].dtype
