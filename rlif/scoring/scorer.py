"""The forward over prompts and completions: statistics of their tokens, or the loss where the advantages are known."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlif.models.activation_checkpointing import checkpointed_layers, checkpointing
from rlif.models.fused_head import FusedHead, backbone
from rlif.models.language_model import positions
from rlif.rollouts.rollout import Rollout
from rlif_kernels import GRPOLoss, TokenStats, grpo_loss, linear_grpo_loss, linear_token_stats, token_stats

DEFAULT_OUTPUTS = ("logprob", "entropy", "self_certainty")


@dataclass(frozen=True)
class LossInputs:
    """What the loss of N completions of at most T tokens needs besides their logits."""

    advantages: Tensor
    """(N,) float32."""
    old_logprob: Tensor | None
    """(N, T) float32, of the policy that sampled; None where that is the policy itself."""
    ref_logprob: Tensor | None
    """(N, T) float32, of the frozen start model; None where the loss has no KL."""
    mask: Tensor
    """(N, T) bool, the tokens that count."""
    options: dict[str, Any]
    """Further keyword arguments of `rlif_kernels.grpo_loss`."""


class Scorer(nn.Module):
    """A causal language model that answers with statistics or a loss instead of logits.

    All that needs gradients happens in its forward, so it is what accelerate wraps for DDP and FSDP.
    """

    def __init__(self, model: PreTrainedModel, head: FusedHead | None) -> None:
        """`head`, if given, is applied in tiles, and logits are never formed; None uses the model's own logits."""
        super().__init__()
        self.model = model
        self.head = head
        self.layers = checkpointed_layers(model)
        # By these names FSDP's transformer_based_wrap finds the layers to shard one by one.
        self._no_split_modules = getattr(model, "_no_split_modules", None)

    def one_token(self) -> Rollout:
        """The least that there is to score: one prompt token and one completion token."""
        ids = torch.zeros(1, 1, dtype=torch.long, device=self.model.device)
        mask = torch.ones_like(ids, dtype=torch.bool)
        return Rollout([""], [None], [""], ids, mask, ids, mask, mask[0], num_generations=1)

    def forward(
        self,
        rollout: Rollout,
        temperature: float,
        outputs: tuple[str, ...] = DEFAULT_OUTPUTS,
        loss: LossInputs | None = None,
    ) -> TokenStats | GRPOLoss:
        """Statistics of the distributions that each completion token was drawn from, or the loss.

        The logits at position t predict token t + 1. So the statistics of the first completion token come from the last
        position of the prompt, those of the EOS from the token before it, and the last token is not fed at all: what it
        predicts was never sampled.

        Args:
            rollout: N completions of at most T tokens.
            temperature: that of sampling; greater than 0.
            outputs: the fields of `TokenStats` to compute.
            loss: makes the result a `GRPOLoss`, for one matrix product less than the statistics and their backward.

        Returns:
            (N, T) float32 fields in nats, 0 outside the completion mask: differentiable ones of `TokenStats`, or those
            of `GRPOLoss`, of which the loss alone is.
        """
        length = rollout.completion_ids.shape[1]
        input_ids = torch.cat([rollout.prompt_ids, rollout.completion_ids], dim=1)[:, :-1]
        # Padding on the right needs no mask, since no real token attends to what comes after it; and a mask without a
        # hole lets attention take its fast causal path.
        seen = torch.ones_like(rollout.completion_mask)
        attention_mask = torch.cat([rollout.prompt_mask, seen], dim=1)[:, :-1]
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask.long(),
            "position_ids": positions(attention_mask),
            "use_cache": False,
        }
        with checkpointing(self.layers) if torch.is_grad_enabled() else nullcontext():
            if self.head is None:
                scores = self.model(**inputs, logits_to_keep=length).logits
            else:
                scores = backbone(self.model)(**inputs).last_hidden_state[:, -length:]

        if self.head is None:
            statistics: Callable[..., TokenStats] = partial(token_stats, scores, temperature=temperature)
            objective: Callable[..., GRPOLoss] = partial(grpo_loss, scores, temperature=temperature)
        else:
            weight = self.head.linear.weight
            head: dict[str, Any] = {
                "bias": self.head.linear.bias,
                "temperature": self.head.temperature(temperature),
                "softcap": self.head.softcap,
            }
            statistics = partial(linear_token_stats, scores, weight, **head)
            objective = partial(linear_grpo_loss, scores, weight, **head)
        if loss is None:
            return statistics(rollout.completion_ids, mask=rollout.completion_mask, outputs=outputs)
        return objective(
            rollout.completion_ids,
            loss.advantages,
            loss.old_logprob,
            loss.ref_logprob,
            mask=loss.mask,
            **loss.options,
        )


def score_parts(
    scorer: nn.Module, rollout: Rollout, parts: Iterable[list[int]], temperature: float, outputs: tuple[str, ...]
) -> TokenStats:
    """Statistics of a rollout from a forward for each part of its rows.

    Args:
        scorer: a `Scorer`, or what accelerate made of one.
        rollout: N completions of at most T tokens.
        parts: rows, each in one part at least.
        temperature: that of sampling; greater than 0.
        outputs: the fields of `TokenStats` to compute.

    Returns:
        (N, T) or (N, T, 2) float32 fields, 0 outside the completion mask.
    """
    fields: dict[str, Tensor] = {}
    for rows in parts:
        stats = scorer(rollout.select(rows), temperature, outputs=outputs)
        for name in outputs:
            values = getattr(stats, name)
            whole = fields.setdefault(name, values.new_zeros(*rollout.completion_ids.shape, *values.shape[2:]))
            whole[rows, : values.shape[1]] = values
    return TokenStats(**fields)
