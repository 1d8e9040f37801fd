"""What samples are learned by: DPO or NFT on the model itself, or a Bradley-Terry reward model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rlif.models.language_model import LanguageModel
from rlif.models.reward_model import RewardModel
from rlif.scoring.scorer import Scorer
from rlif.scoring.sequences import Ids, as_rollout, sequence_logprobs
from rlif.self_feedback.nft import JudgedCompletion, nft_loss
from rlif.self_feedback.options import TrainOptions
from rlif.self_feedback.preference_loss import PreferenceLoss, preference_loss
from rlif.self_feedback.rank import Pair
from rlif.training.items import StepLoss


@dataclass(frozen=True)
class DPO:
    """The model's own log-ratios to its start are the rewards (arXiv 2305.18290)."""

    scorer: Scorer
    language_model: LanguageModel
    pairs: Sequence[Pair]
    reference: tuple[Tensor, Tensor]
    """(n,) float32 log-probabilities of the chosen and of the rejected completions under the start model."""
    options: TrainOptions

    @property
    def module(self) -> nn.Module:
        """See `rlif.training.items.Objective`."""
        return self.scorer

    def sequences(self, row: int) -> list[tuple[Ids, Ids]]:
        """See `rlif.training.items.Objective`."""
        return self.pairs[row].sequences()

    def __call__(self, rows: Sequence[int]) -> StepLoss:
        """See `rlif.training.items.Objective`."""
        pairs, options, device = [self.pairs[row] for row in rows], self.options, self.language_model.device
        assert options.beta is not None
        chosen, rejected = [pair.chosen_ids for pair in pairs], [pair.rejected_ids for pair in pairs]
        prompts = [pair.prompt_ids for pair in pairs]
        logprobs = sequence_logprobs(self.scorer, self.language_model, prompts * 2, chosen + rejected)
        chosen_logprob, rejected_logprob = logprobs.chunk(2)
        result = preference_loss(
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
        return with_metrics(result)


@dataclass(frozen=True)
class BradleyTerry:
    """A reward model whose chosen completions are to score higher: -log sigmoid(r_chosen - r_rejected - margin)."""

    reward_model: RewardModel
    pairs: Sequence[Pair]
    options: TrainOptions

    @property
    def module(self) -> nn.Module:
        """See `rlif.training.items.Objective`."""
        return self.reward_model.model

    def sequences(self, row: int) -> list[tuple[Ids, Ids]]:
        """See `rlif.training.items.Objective`."""
        return self.pairs[row].sequences()

    def __call__(self, rows: Sequence[int]) -> StepLoss:
        """See `rlif.training.items.Objective`."""
        pairs = [self.pairs[row] for row in rows]
        completions = [pair.chosen_ids for pair in pairs] + [pair.rejected_ids for pair in pairs]
        rewards = self.reward_model.rewards([pair.prompt_ids for pair in pairs] * 2, completions)
        chosen, rejected = rewards.chunk(2)
        zero = torch.zeros_like(chosen)
        margin = margins(pairs, rewards.device) if self.options.use_margin else None
        # With beta 1 and no reference, DPO's loss of rewards is Bradley and Terry's.
        return with_metrics(preference_loss(chosen, rejected, zero, zero, beta=1.0, margin=margin))


@dataclass(frozen=True)
class NFT:
    """Positive completions, and negative ones under the model that the positive one implies (2505.18116)."""

    scorer: Scorer
    language_model: LanguageModel
    completions: Sequence[JudgedCompletion]
    start_logprobs: Sequence[Sequence[float]]
    """Of each completion's tokens, under the start model."""

    @property
    def module(self) -> nn.Module:
        """See `rlif.training.items.Objective`."""
        return self.scorer

    def sequences(self, row: int) -> list[tuple[Ids, Ids]]:
        """See `rlif.training.items.Objective`."""
        return self.completions[row].sequences()

    def __call__(self, rows: Sequence[int]) -> StepLoss:
        """See `rlif.training.items.Objective`."""
        completions, device = [self.completions[row] for row in rows], self.language_model.device
        prompt_ids, ids = [each.prompt_ids for each in completions], [each.ids for each in completions]
        rollout = as_rollout(self.language_model, prompt_ids, ids)
        logprob = self.scorer(rollout, 1.0, outputs=("logprob",)).logprob
        old = torch.zeros_like(logprob)
        for place, row in enumerate(rows):
            old[place, : len(self.start_logprobs[row])] = torch.tensor(self.start_logprobs[row], device=device)
        positive = torch.tensor([each.positive for each in completions], device=device)
        share = torch.tensor([each.positive_share for each in completions], device=device)
        loss = nft_loss(logprob, old, rollout.completion_mask, positive, share)
        change = (logprob - old).sum(dim=1).detach()
        # Towards positive ones and away from negative ones.
        return StepLoss(loss, {"accuracy": ((change > 0) == positive).float(), "log_ratio": change})


def with_metrics(result: PreferenceLoss) -> StepLoss:
    """The loss of pairs with the share of them that is told apart, and their rewards."""
    return StepLoss(
        result.loss,
        {
            "accuracy": (result.chosen_reward > result.rejected_reward).float(),
            "rewards/chosen": result.chosen_reward.detach(),
            "rewards/rejected": result.rejected_reward.detach(),
        },
    )


def margins(pairs: Sequence[Pair], device: torch.device) -> Tensor:
    """exp(c_chosen - c_rejected), (n,) float32: the larger the gap in confidence, the clearer the preference."""
    return torch.tensor([pair.gap for pair in pairs], device=device).exp()
