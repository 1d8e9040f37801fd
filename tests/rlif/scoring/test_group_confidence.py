"""The confidence of windows is that of DeepConf, window by window."""

from __future__ import annotations

import math

import pytest
import torch

from rlif.scoring.group_confidence import GROUP_SCORES, TOP_GROUP_SCORES, group_scores, token_confidence
from rlif_kernels import TokenStats, reference

WINDOW = 5


def by_hand(confidences: list[float], window: int) -> tuple[float, float, float]:
    """Lowest, bottom and tail confidence, written down as the paper says them."""
    size = min(window, len(confidences))
    groups = sorted(sum(confidences[i : i + size]) / size for i in range(len(confidences) - size + 1))
    bottom = groups[: max(1, int(0.1 * len(groups)))]
    return groups[0], sum(bottom) / len(bottom), sum(confidences[-size:]) / size


@pytest.mark.parametrize("window", [1, WINDOW, 1000])
def test_the_scores_are_those_of_every_window(window: int) -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = [64, 5, 4, 1, 0, 24]
    values = 5 * torch.rand(len(lengths), max(lengths), generator=generator)
    top = -5 * torch.rand(len(lengths), max(lengths), 20, generator=generator)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    outside = TokenStats(
        self_certainty=values.where(mask, torch.nan), top_logprobs=top.where(mask[..., None], torch.nan)
    )
    scores = group_scores(outside, mask, window)
    assert tuple(scores) == (*GROUP_SCORES, *TOP_GROUP_SCORES)
    for row, length in enumerate(lengths):
        nothing = (0.0, 0.0, 0.0)
        expected = by_hand(values[row, :length].tolist(), window) if length else nothing
        of_top = by_hand((-top[row, :length].mean(-1)).tolist(), window) if length else nothing
        assert [score[row].item() for score in scores.values()] == pytest.approx([*expected, *of_top], rel=1e-5)


def test_a_tokens_confidence_over_the_20_likeliest_is_the_papers_and_of_fewer_where_there_are_no_20() -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    logits[2, 6:] = -torch.inf
    stats = reference.token_stats(logits, torch.zeros(3, dtype=torch.long), top_logprobs=20)
    expected = [-logits[row].log_softmax(-1).topk(count).values.mean() for row, count in ((0, 20), (1, 20), (2, 6))]
    torch.testing.assert_close(token_confidence(stats), torch.stack(expected))


def test_a_tokens_confidence_is_the_papers_over_the_whole_vocabulary_but_for_a_constant() -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    paper = -logits.log_softmax(-1).mean(-1)  # of the k = 50 likeliest tokens
    ours = reference.token_stats(logits, torch.zeros(3, dtype=torch.long), outputs=("self_certainty",)).self_certainty
    torch.testing.assert_close(ours, paper - math.log(50))
