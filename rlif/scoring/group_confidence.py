"""Confidence in the stretches of a completion (DeepConf, arXiv 2508.15260): its weakest ones, and its end.

A group is a window of n tokens, and its confidence the mean of theirs; a shorter completion is one group.

| score | is |
| --- | --- |
| `lowest_group_confidence` | the least confidence of any group |
| `bottom_group_confidence` | the mean of the tenth of all groups that are the least confident, of one at least |
| `tail_confidence` | the mean of the last n tokens |

In the paper a token's confidence is -mean log p_t(v) over the k = 20 likeliest tokens v: it grows as the others fall
behind the likeliest. `lowest_group_top_confidence`, `bottom_group_top_confidence` and `tail_top_confidence` take that.
The scores above are of KL(Uniform ‖ p_t), which is the same over the whole vocabulary, k = V, less log V: a constant,
that moves no completion before another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from rlif_kernels import TokenStats

GROUP_SCORES = ("lowest_group_confidence", "bottom_group_confidence", "tail_confidence")
TOP_GROUP_SCORES = ("lowest_group_top_confidence", "bottom_group_top_confidence", "tail_top_confidence")


def group_scores(stats: TokenStats, completion_mask: Tensor, window: int) -> dict[str, Tensor]:
    """Compute `GROUP_SCORES` and `TOP_GROUP_SCORES` of N completions, (N,) float32 in nats; 0 for an empty one.

    Args:
        stats: with `self_certainty` and `top_logprobs`, (N, T) and (N, T, 20) in nats.
        completion_mask: (N, T) bool, True on the tokens of the completions, which begin at the first.
        window: tokens of a group, n; at least 1.
    """
    assert stats.self_certainty is not None
    scores = dict(zip(GROUP_SCORES, _of_groups(stats.self_certainty, completion_mask, window), strict=True))
    of_top = _of_groups(token_confidence(stats), completion_mask, window)
    return scores | dict(zip(TOP_GROUP_SCORES, of_top, strict=True))


def token_confidence(stats: TokenStats) -> Tensor:
    """Return -mean log p_t(v) over the k likeliest tokens v, (N, T) in nats; over fewer where there are no k."""
    assert stats.top_logprobs is not None
    there = stats.top_logprobs > -float("inf")
    return -stats.top_logprobs.where(there, 0).sum(dim=-1) / there.sum(dim=-1).clamp(min=1)


def _of_groups(confidence: Tensor, completion_mask: Tensor, window: int) -> tuple[Tensor, Tensor, Tensor]:
    """The lowest, the bottom and the tail confidence, (N,) each, from that of each token (N, T)."""
    lowest, bottom, tail = (confidence.new_zeros(len(completion_mask)) for _ in range(3))
    for row, length in enumerate(completion_mask.sum(dim=1).tolist()):
        if length == 0:
            continue
        values = confidence[row, :length].double()
        size = min(window, length)
        sums = values.cumsum(0)
        groups = sums[size - 1 :].clone()
        groups[1:] -= sums[:-size]
        groups = (groups / size).sort().values
        lowest[row] = groups[0]
        bottom[row] = groups[: max(1, len(groups) // 10)].mean()
        tail[row] = values[-size:].mean()
    return lowest, bottom, tail
