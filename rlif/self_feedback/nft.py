"""Negative-aware fine-tuning (NFT, arXiv 2505.18116) on the model's own verdicts.

Completions above the threshold of confidence are positive, the others negative. With the share q of positive ones
among a prompt's completions, the start model is q pi+ + (1 - q) pi-, and the model pi+ to be learned implies a negative
one, whose ratio to the start model is (1 - q R) / (1 - q) for R = pi / pi_start. A positive completion's tokens are
made likely under pi, a negative one's under the negative model that pi implies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlif.errors import UserError
from rlif.files.jsonl import Row
from rlif.self_feedback.options import RankOptions
from rlif.self_feedback.rank import as_it_counts, check_confidence

# The least ratio of the implied negative model whose logarithm is taken: below 1 its gradient grows without bound.
LEAST_RATIO = 1.0


@dataclass(frozen=True)
class JudgedCompletion:
    """A completion with the model's own verdict."""

    prompt_ids: list[int]
    ids: list[int]
    positive: bool
    positive_share: float
    """Of the prompt's completions; greater than 0 and less than 1."""

    def sequences(self) -> list[tuple[list[int], list[int]]]:
        """Prompt and completion."""
        return [(self.prompt_ids, self.ids)]


def judged_completions(rows: Sequence[Row], options: RankOptions) -> list[JudgedCompletion]:
    """The completions of all prompts that have positive and negative ones.

    Raises:
        UserError: there is no such prompt, or the samples lack the score.
    """
    check_confidence(rows, options)
    judged = []
    for row in rows:
        counted = [as_it_counts(each, choose_unfinished=options.choose_unfinished) for each in row["completions"]]
        verdicts = [
            bool(each["span"]) and each["confidence"][options.confidence] >= options.threshold for each in counted
        ]
        share = sum(verdicts) / len(verdicts)
        if 0 < share < 1:
            judged += [
                JudgedCompletion(row["prompt_ids"], completion["ids"], positive, share)
                for completion, positive in zip(row["completions"], verdicts, strict=True)
            ]
    if not judged:
        raise UserError(
            f"threshold: none of {len(rows)} prompts has completions on both sides of a {options.confidence} "
            f"of {options.threshold:g}; expected another threshold"
        )
    return judged


def nft_loss(logprob: Tensor, old_logprob: Tensor, mask: Tensor, positive: Tensor, positive_share: Tensor) -> Tensor:
    """Return the loss of N completions: (N,), each the mean over its tokens, differentiable.

    A prompt counts 1 - q times, so that the gradient at the start model is the policy gradient with the advantage
    1 - q of a positive completion and -q of a negative one: a reward of 1 or 0, less its mean over the completions.

    Args:
        logprob: (N, T) log-probabilities of the tokens, in nats.
        old_logprob: (N, T) those of the start model that sampled them.
        mask: (N, T) bool, the tokens that count.
        positive: (N,) bool.
        positive_share: (N,) q, greater than 0 and less than 1.
    """
    share = positive_share[:, None]
    log_ratio = logprob - old_logprob
    negative_ratio = (1 - share * log_ratio.exp()) / (1 - share)
    # The value is clipped and the gradient goes through.
    clipped = negative_ratio + (negative_ratio.clamp(min=LEAST_RATIO) - negative_ratio).detach()
    token_loss = -torch.where(positive[:, None], log_ratio, clipped.log()) * (1 - share)
    return (token_loss * mask).sum(dim=1) / mask.sum(dim=1)
