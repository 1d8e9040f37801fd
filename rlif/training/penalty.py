"""The penalty for leaving the start model: what the start model is asked for, and what it comes to.

The estimates "k3" and "k3_corrected" of a token are of log-probabilities, the policy's and the start model's. "full" is
the divergence itself, for which the start model hands on its hidden states, H numbers a token instead of one (or where
no head is fused its logits).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rlif.rollouts.rollout import Rollout
from rlif.scoring.scorer import PenaltyInputs
from rlif.scoring.start_model import StartScores
from rlif.training.learner import Learner
from rlif_kernels import Divergence, GRPOLoss, TokenStats, policy_loss
from rlif_kernels.kl_penalty import added
from rlif_kernels.loss_terms import token_weights


@dataclass(frozen=True)
class StartAnswer:
    """What the start model says of n completions of at most T tokens; nothing where there is no penalty."""

    logprob: Tensor | None = None
    """(n, T) float32, nats, 0 outside the completion mask: for the estimate."""
    scores: StartScores | None = None
    """For the divergence itself."""


class KeptAnswers:
    """What the start model says of a rollout, part by part, for the updates that come after the first."""

    def __init__(self, shape: torch.Size) -> None:
        """`shape` is (N, T), of the whole rollout."""
        self.shape = shape
        self.answer = StartAnswer()

    def put(self, rows: list[int], answer: StartAnswer) -> None:
        """Keep what was said of some rows."""
        if answer.scores is None:
            assert answer.logprob is not None
            self.answer = StartAnswer(logprob=self._with(self.answer.logprob, rows, answer.logprob))
        else:
            kept = None if self.answer.scores is None else self.answer.scores.values
            values = self._with(kept, rows, answer.scores.values)
            self.answer = StartAnswer(scores=replace(answer.scores, values=values))

    def take(self, rows: list[int], length: int) -> StartAnswer:
        """Return what was said of some rows, of so many tokens."""
        logprob, scores = self.answer.logprob, self.answer.scores
        if scores is not None:
            return StartAnswer(scores=replace(scores, values=scores.values[rows, :length]))
        return StartAnswer(logprob=None if logprob is None else logprob[rows, :length])

    def _with(self, whole: Tensor | None, rows: list[int], part: Tensor) -> Tensor:
        if whole is None:
            whole = part.new_zeros(*self.shape, *part.shape[2:])
        whole[rows, : part.shape[1]] = part
        return whole


def ask_start_model(learner: Learner, part: Rollout) -> StartAnswer:
    """Ask the start model for what the penalty of a part takes."""
    config, start_model = learner.config, learner.models.start_model
    if config.beta == 0:
        return StartAnswer()
    assert start_model is not None
    if config.kl_estimator == "full":
        return StartAnswer(scores=start_model.scores(part, config.temperature))
    return StartAnswer(logprob=start_model.logprob(part, config.temperature))


def penalty_weights(counted: Tensor, options: dict[str, Any]) -> Tensor:
    """Return the weight of each token's divergence in a loss: (n, T) float32, 0 where `counted` (n, T) is False.

    Args:
        counted: the tokens that count.
        options: of `policy_loss`.
    """
    names = ("loss_type", "num_items_in_batch", "max_completion_length", "loss_scale")
    weight, _ = token_weights(counted, *(options[name] for name in names))
    return options["beta"] * weight


def statistics(
    learner: Learner, part: Rollout, outputs: tuple[str, ...], answer: StartAnswer, weights: Tensor
) -> tuple[TokenStats, Divergence | None]:
    """Go forward over a part: its statistics, and the divergence by its tokens' weights if that is the penalty."""
    scorer, temperature = learner.models.scorer, learner.config.temperature
    if answer.scores is None:
        return scorer(part, temperature, outputs=outputs), None
    stats, divergence = scorer(part, temperature, outputs=outputs, penalty=PenaltyInputs(answer.scores, weights))
    return stats, divergence


def loss_of_statistics(
    stats: TokenStats,
    divergence: Divergence | None,
    advantages: Tensor,
    old_logprob: Tensor | None,
    answer: StartAnswer,
    token_weight: Tensor | None,
    counted: Tensor,
    options: dict[str, Any],
) -> GRPOLoss:
    """Compute the loss of a part from what `statistics` returned; the others are the arguments of `policy_loss`."""
    given = (stats, advantages, old_logprob)
    if divergence is None:
        return policy_loss(*given, answer.logprob, token_weight, mask=counted, **options)
    result = policy_loss(*given, token_weight=token_weight, mask=counted, **options | {"beta": 0.0})
    return added(result, divergence, options["beta"])
