"""What samples are learned by: DPO or NFT on the model itself, or a Bradley-Terry reward model.

Of length-conditioned pairs (Rc-DPO and Rc-BT, arXiv 2502.00814) the loss is that of the pair, and lam times the sum of
those of its two comparisons between prompts. Whether the paper keeps the pair's own term beside these is not verified;
here it is kept. DPO's rewards are log-ratios: beta log Z(prompt), which cancels between completions of one prompt, does
not cancel between two prompts, and is left out, so that these comparisons are of log-ratios and not of rewards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rlif.models.language_model import LanguageModel
from rlif.models.reward_model import RewardModel
from rlif.scoring.scorer import Scorer
from rlif.scoring.sequences import Ids, as_rollout, sequence_logprobs
from rlif.self_feedback.length_prompts import ConditionedPair
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
    reference: tuple[Tensor, ...]
    """(n,) float32 log-probabilities under the start model, of the first, the second, … sequences of all pairs."""
    options: TrainOptions
    lam: float = 1.0
    """Weight of comparisons between prompts, where pairs have them."""

    @property
    def module(self) -> nn.Module:
        """See `rlif.training.items.Objective`."""
        return self.scorer

    def sequences(self, row: int) -> list[tuple[Ids, Ids]]:
        """See `rlif.training.items.Objective`."""
        return self.pairs[row].sequences()

    def __call__(self, rows: Sequence[int]) -> StepLoss:
        """See `rlif.training.items.Objective`."""
        pairs, options = [self.pairs[row] for row in rows], self.options
        assert options.beta is not None
        beta = options.beta
        prompts, completions = by_place(pairs)
        count = len(prompts) // len(pairs)
        logprobs = sequence_logprobs(self.scorer, self.language_model, prompts, completions).chunk(count)
        device = logprobs[0].device
        lengths = torch.tensor([len(ids) for ids in completions], device=device).chunk(count)

        def compare(better: int, worse: int, *, is_pair: bool = False) -> PreferenceLoss:
            return preference_loss(
                logprobs[better],
                logprobs[worse],
                self.reference[better][rows],
                self.reference[worse][rows],
                beta=beta,
                loss_type=options.loss_type,
                # Nobody was mistaken, or unsure, about an instruction.
                label_smoothing=options.label_smoothing if is_pair else 0.0,
                margin=margins(pairs, device) if is_pair and options.use_margin else None,
                lengths=(lengths[better], lengths[worse]),
            )

        return with_conditioned(compare(0, 1, is_pair=True), pairs, compare, self.lam)


@dataclass(frozen=True)
class BradleyTerry:
    """A reward model whose chosen completions are to score higher: -log sigmoid(r_chosen - r_rejected - margin)."""

    reward_model: RewardModel
    pairs: Sequence[Pair]
    options: TrainOptions
    lam: float = 1.0
    """Weight of comparisons between prompts, where pairs have them."""

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
        prompts, completions = by_place(pairs)
        rewards = self.reward_model.rewards(prompts, completions).chunk(len(prompts) // len(pairs))
        zero = torch.zeros_like(rewards[0])
        margin = margins(pairs, zero.device) if self.options.use_margin else None

        def compare(better: int, worse: int, margin: Tensor | None = None) -> PreferenceLoss:
            # With beta 1 and no reference, DPO's loss of rewards is Bradley and Terry's.
            return preference_loss(rewards[better], rewards[worse], zero, zero, beta=1.0, margin=margin)

        return with_conditioned(compare(0, 1, margin), pairs, compare, self.lam)


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


def by_place(pairs: Sequence[Pair]) -> tuple[list[Ids], list[Ids]]:
    """Return prompts and completions of all pairs' first sequences, then of all their second ones, and so on."""
    sequences = [sequence for place in zip(*(pair.sequences() for pair in pairs), strict=True) for sequence in place]
    return [prompt for prompt, _ in sequences], [completion for _, completion in sequences]


def with_conditioned(
    own: PreferenceLoss, pairs: Sequence[Pair], compare: Callable[[int, int], PreferenceLoss], lam: float
) -> StepLoss:
    """The loss of pairs, with lam times that of their comparisons between prompts where they have any.

    Args:
        own: what became of the pairs themselves.
        pairs: n of one kind.
        compare: two of their sequences by their places in `Pair.sequences`, the better one first.
        lam: at least 0.

    Returns:
        The loss, with the share of pairs that is told apart, and their rewards; of comparisons between prompts the
        share that is told apart, and their loss, both means of a pair's two.
    """
    metrics = {
        "accuracy": (own.chosen_reward > own.rejected_reward).float(),
        "rewards/chosen": own.chosen_reward.detach(),
        "rewards/rejected": own.rejected_reward.detach(),
    }
    if not isinstance(pairs[0], ConditionedPair):
        return StepLoss(own.loss, metrics)
    # The chosen completion without the instruction that it breaks; the rejected one with that which it keeps.
    found = [compare(0, 2), compare(3, 1)]
    metrics["length/accuracy"] = torch.stack([(each.chosen_reward > each.rejected_reward).float() for each in found])
    metrics["length/loss"] = torch.stack([each.loss.detach() for each in found])
    means = {name: values.mean(dim=0) if values.dim() > 1 else values for name, values in metrics.items()}
    return StepLoss(own.loss + lam * sum(each.loss for each in found), means)


def margins(pairs: Sequence[Pair], device: torch.device) -> Tensor:
    """exp(c_chosen - c_rejected), (n,) float32: the larger the gap in confidence, the clearer the preference."""
    return torch.tensor([pair.gap for pair in pairs], device=device).exp()
