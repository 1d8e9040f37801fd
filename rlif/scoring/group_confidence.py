"""Confidence in the stretches of a completion (DeepConf, arXiv 2508.15260): its weakest ones, and its end.

A group is a window of n tokens, and its confidence the mean of theirs; a shorter completion is one group.

| score | is |
| --- | --- |
| `lowest_group_confidence` | the least confidence of any group |
| `bottom_group_confidence` | the mean of the tenth of all groups that are the least confident, of one at least |
| `tail_confidence` | the mean of the last n tokens |

In the paper a token's confidence is -mean log p_t(v) over the k likeliest tokens v. Here it is KL(Uniform ‖ p_t), which
is the same over the whole vocabulary, k = V, less log V: a constant, that moves no completion before another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from rlif_kernels import TokenStats

GROUP_SCORES = ("lowest_group_confidence", "bottom_group_confidence", "tail_confidence")


def group_scores(stats: TokenStats, completion_mask: Tensor, window: int) -> dict[str, Tensor]:
    """Compute `GROUP_SCORES` of N completions, (N,) float32 in nats; 0 for an empty one.

    Args:
        stats: with `self_certainty`, (N, T) in nats.
        completion_mask: (N, T) bool, True on the tokens of the completions, which begin at the first.
        window: tokens of a group, n; at least 1.
    """
    assert stats.self_certainty is not None
    scores = {name: stats.self_certainty.new_zeros(len(completion_mask)) for name in GROUP_SCORES}
    for row, length in enumerate(completion_mask.sum(dim=1).tolist()):
        if length == 0:
            continue
        values = stats.self_certainty[row, :length].double()
        size = min(window, length)
        sums = values.cumsum(0)
        groups = sums[size - 1 :].clone()
        groups[1:] -= sums[:-size]
        groups = (groups / size).sort().values
        scores["lowest_group_confidence"][row] = groups[0]
        scores["bottom_group_confidence"][row] = groups[: max(1, len(groups) // 10)].mean()
        scores["tail_confidence"][row] = values[-size:].mean()
    return scores
