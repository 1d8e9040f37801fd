"""What the pairs are learned by: DPO on the model itself, or a Bradley-Terry reward model (arXiv 2507.21931)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from rlif.models import LanguageModel
from rlif.preference_loss import PreferenceLoss, preference_loss
from rlif.scoring import Scorer
from rlif.self_feedback.config import TrainOptions
from rlif.self_feedback.preferences import Pair
from rlif.self_feedback.reward_model import RewardModel
from rlif.self_feedback.sequences import sequence_logprobs


class Objective(Protocol):
    """Gives the loss of pairs by one forward over their chosen and rejected completions."""

    @property
    def module(self) -> nn.Module:
        """What learns."""

    def __call__(self, rows: Sequence[int]) -> PreferenceLoss:
        """The losses of some of the pairs, differentiable."""


@dataclass(frozen=True)
class DPO:
    """The model's own log-ratios to its start are the rewards."""

    scorer: Scorer
    language_model: LanguageModel
    pairs: Sequence[Pair]
    reference: tuple[Tensor, Tensor]
    """(n,) float32 log-probabilities of the chosen and of the rejected completions under the start model."""
    options: TrainOptions

    @property
    def module(self) -> nn.Module:
        """See `Objective`."""
        return self.scorer

    def __call__(self, rows: Sequence[int]) -> PreferenceLoss:
        """See `Objective`."""
        pairs, options, device = [self.pairs[row] for row in rows], self.options, self.language_model.device
        assert options.beta is not None
        chosen, rejected = [pair.chosen_ids for pair in pairs], [pair.rejected_ids for pair in pairs]
        prompts = [pair.prompt_ids for pair in pairs]
        logprobs = sequence_logprobs(self.scorer, self.language_model, prompts * 2, chosen + rejected)
        chosen_logprob, rejected_logprob = logprobs.chunk(2)
        return preference_loss(
            chosen_logprob,
            rejected_logprob,
            self.reference[0][rows],
            self.reference[1][rows],
            beta=options.beta,
            loss_type=options.loss_type,
            label_smoothing=options.label_smoothing,
            margin=margins(pairs, device) if options.use_margin else None,
            lengths=(
                torch.tensor([len(ids) for ids in chosen], device=device),
                torch.tensor([len(ids) for ids in rejected], device=device),
            ),
        )


@dataclass(frozen=True)
class BradleyTerry:
    """A reward model whose chosen completions are to score higher: -log sigmoid(r_chosen - r_rejected - margin)."""

    reward_model: RewardModel
    pairs: Sequence[Pair]
    options: TrainOptions

    @property
    def module(self) -> nn.Module:
        """See `Objective`."""
        return self.reward_model.model

    def __call__(self, rows: Sequence[int]) -> PreferenceLoss:
        """See `Objective`."""
        pairs = [self.pairs[row] for row in rows]
        completions = [pair.chosen_ids for pair in pairs] + [pair.rejected_ids for pair in pairs]
        rewards = self.reward_model.rewards([pair.prompt_ids for pair in pairs] * 2, completions)
        chosen, rejected = rewards.chunk(2)
        zero = torch.zeros_like(chosen)
        margin = margins(pairs, rewards.device) if self.options.use_margin else None
        # With beta 1 and no reference, DPO's loss of rewards is Bradley and Terry's.
        return preference_loss(chosen, rejected, zero, zero, beta=1.0, margin=margin)


def margins(pairs: Sequence[Pair], device: torch.device) -> Tensor:
    """exp(c_chosen - c_rejected), (n,) float32: the larger the gap in confidence, the clearer the preference."""
    return torch.tensor([pair.gap for pair in pairs], device=device).exp()
