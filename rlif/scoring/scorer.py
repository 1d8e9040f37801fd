"""The forward over prompts and completions: statistics of their tokens, or the loss where the advantages are known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlif.models.activation_checkpointing import checkpointed_layers, checkpointing
from rlif.models.fused_head import FusedHead, backbone, fused_head, plain_head
from rlif.models.language_model import positions
from rlif.models.packed_row import packed
from rlif.models.sharing_check import shares_prompts
from rlif.options.groups import MemoryOptions
from rlif.rollouts.microbatches import is_shared, microbatches
from rlif.rollouts.rollout import Rollout
from rlif.scoring.start_model import StartScores
from rlif_kernels import (
    Divergence,
    GRPOLoss,
    TokenStats,
    divergence,
    grpo_loss,
    linear_divergence,
    linear_grpo_loss,
    linear_token_stats,
    token_stats,
)
from rlif_kernels.stats import DEFAULT_OUTPUTS

# What attention within packed rows takes longer than in padded ones, as a share of a layer's products, is this over the
# hidden size: 0.28 at 256. There 0.82 of the tokens take as long as all of them do, and 0.76 take 0.88 of the time.
ATTENTION_COST = 72


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
    token_weight: Tensor | None = None
    """(N, T) float32, by which each token's advantage is multiplied; None: 1."""
    start: StartScores | None = None
    """What the KL of the loss is computed from instead of `ref_logprob`: then it is the divergence itself."""


@dataclass(frozen=True)
class PenaltyInputs:
    """What the divergence from the start model, beside statistics, needs besides the policy's logits."""

    start: StartScores
    weight: Tensor
    """(N, T) float32, of each token's divergence in the penalty."""


class Scorer(nn.Module):
    """A causal language model that answers with `statistics` or a `loss` instead of logits.

    Both go through `forward`, since accelerate wraps a module's forward for DDP and FSDP: callers call the module.
    """

    def __init__(self, model: PreTrainedModel, head: FusedHead | None, *, share_prompts: float = 0) -> None:
        """Score with a model as it is in evaluation mode.

        Args:
            model: to score with.
            head: applied in tiles, so that logits are never formed; None uses the model's own logits.
            share_prompts: compute a prompt once for all completions of it, in a packed row, where that has less than
                this share of the tokens of padded rows; the model must be able to (`rlif.models.sharing_check`). 1:
                wherever it has fewer; 0: never.
        """
        super().__init__()
        self.model = model
        self.head = head
        self.share_prompts = share_prompts
        self.layers = checkpointed_layers(model)
        # By these names FSDP's transformer_based_wrap finds the layers to shard one by one.
        self._no_split_modules = getattr(model, "_no_split_modules", None)

    def one_token(self) -> Rollout:
        """Return the least that there is to score: one prompt token and one completion token."""
        ids = torch.zeros(1, 1, dtype=torch.long, device=self.model.device)
        mask = torch.ones_like(ids, dtype=torch.bool)
        return Rollout([""], [None], [""], ids, mask, ids, mask, mask[0], num_generations=1)

    def forward(
        self,
        rollout: Rollout,
        temperature: float,
        outputs: tuple[str, ...] = DEFAULT_OUTPUTS,
        loss: LossInputs | None = None,
        penalty: PenaltyInputs | None = None,
    ) -> TokenStats | tuple[TokenStats, Divergence] | GRPOLoss | Tensor:
        """Compute the `loss`, or `statistics`, with a penalty if there is one; of no outputs the `scores` alone."""
        if loss is not None:
            return self.loss(rollout, temperature, loss)
        if penalty is not None:
            return self.statistics_and_penalty(rollout, temperature, outputs, penalty)
        return self.statistics(rollout, temperature, outputs) if outputs else self.scores(rollout)

    def statistics(self, rollout: Rollout, temperature: float, outputs: tuple[str, ...]) -> TokenStats:
        """Compute statistics of the distributions that the completion tokens were drawn from.

        Args:
            rollout: N completions of at most T tokens.
            temperature: that of sampling; greater than 0.
            outputs: the fields of `TokenStats` to compute.

        Returns:
            (N, T) float32 fields in nats, differentiable, 0 outside the completion mask.
        """
        return self._statistics(self.scores(rollout), rollout, temperature, outputs)

    def statistics_and_penalty(
        self, rollout: Rollout, temperature: float, outputs: tuple[str, ...], inputs: PenaltyInputs
    ) -> tuple[TokenStats, Divergence]:
        """Compute `statistics`, and from the same forward KL(policy ‖ start model).

        Returns:
            the statistics; and the divergence, whose loss is the weighted sum and carries a gradient, and whose (N, T)
            values are float32, in nats, 0 outside the completion mask.
        """
        scores, start = self.scores(rollout), inputs.start
        stats = self._statistics(scores, rollout, temperature, outputs)
        options: dict[str, Any] = {"kind": "reverse_kl", "token_weight": inputs.weight, "mask": rollout.completion_mask}
        if self.head is None:
            return stats, divergence(scores, start.values, temperature=temperature, **options)
        head, options = self._start_head(start), options | self._head_options(temperature)
        options |= {"teacher_bias": head.bias, "teacher_softcap": self.head.softcap}
        return stats, linear_divergence(scores, self.head.linear.weight, start.values, head.weight, **options)

    def _statistics(self, scores: Tensor, rollout: Rollout, temperature: float, outputs: tuple[str, ...]) -> TokenStats:
        """`statistics` of `scores` that are there already."""
        targets, mask = rollout.completion_ids, rollout.completion_mask
        if self.head is None:
            return token_stats(scores, targets, mask=mask, outputs=outputs, temperature=temperature)
        weight, options = self.head.linear.weight, self._head_options(temperature)
        return linear_token_stats(scores, weight, targets, mask=mask, outputs=outputs, **options)

    def loss(self, rollout: Rollout, temperature: float, inputs: LossInputs) -> GRPOLoss:
        """Compute the loss with its gradient at once: one matrix product less than statistics and their backward.

        Args:
            rollout: N completions of at most T tokens.
            temperature: that of sampling; greater than 0.
            inputs: everything else that the loss is made of.

        Returns:
            `GRPOLoss`, whose loss alone carries a gradient; its (N, T) fields are 0 outside the mask of the inputs.
        """
        scores = self.scores(rollout)
        options = {
            "targets": rollout.completion_ids,
            "advantages": inputs.advantages,
            "old_logprob": inputs.old_logprob,
            "ref_logprob": inputs.ref_logprob,
            "mask": inputs.mask,
            "token_weight": inputs.token_weight,
            **inputs.options,
        }
        if self.head is None:
            if inputs.start is not None:
                options |= {"kl": "full", "ref_logits": inputs.start.values}
            return grpo_loss(scores, temperature=temperature, **options)
        if inputs.start is not None:
            head = self._start_head(inputs.start)
            options |= {"kl": "full", "ref_hidden": inputs.start.values}
            options |= {"ref_weight": head.weight, "ref_bias": head.bias}
        return linear_grpo_loss(scores, self.head.linear.weight, **self._head_options(temperature), **options)

    def scores(self, rollout: Rollout) -> Tensor:
        """Go forward to what each completion token is predicted from: logits (N, T, V), or (N, T, H) for the head.

        The logits at position t predict token t + 1. So the statistics of the first completion token come from the last
        position of the prompt, those of the EOS from the token before it, and the last token is not fed at all: what it
        predicts was never sampled.
        """
        with checkpointing(self.layers) if torch.is_grad_enabled() else nullcontext():
            padded = rollout.prompt_ids.numel() + rollout.completion_ids[:, 1:].numel()
            if self.share_prompts and is_shared(rollout.packed.num_tokens, padded, self.share_prompts):
                return self._packed_scores(rollout)
            length = rollout.completion_ids.shape[1]
            inputs = padded_inputs(rollout)
            if self.head is None:
                return self.model(**inputs, logits_to_keep=length).logits
            return backbone(self.model)(**inputs).last_hidden_state[:, -length:]

    def _packed_scores(self, rollout: Rollout) -> Tensor:
        """`scores` by one row, in which each prompt is there once."""
        row, sources = rollout.packed.row, rollout.packed.sources
        with packed(self.model, row):
            if self.head is None:
                logits = self.model(**row.inputs(), logits_to_keep=sources.flatten()).logits
                return logits[0].unflatten(0, sources.shape)
            # By index: the backward of index_select adds up in no fixed order on a GPU, and completions meet in the
            # last token of their prompt.
            return backbone(self.model)(**row.inputs()).last_hidden_state[0][sources]

    def _start_head(self, start: StartScores) -> nn.Linear:
        """Return the head that the start model's hidden states go through."""
        head = start.head or self.head
        assert head is not None
        return plain_head(head)

    def _head_options(self, temperature: float) -> dict[str, Any]:
        assert self.head is not None
        return {
            "bias": self.head.linear.bias,
            "temperature": self.head.temperature(temperature),
            "softcap": self.head.softcap,
            "vocab_size": self.head.vocab_size,
            "logits_dtype": self.head.logits_dtype,
        }


def make_scorer(model: PreTrainedModel, options: MemoryOptions) -> Scorer:
    """Make a scorer of a model as the options say: with its head fused, and completions that share their prompts.

    Raises:
        UserError: the head cannot be fused.
    """
    head = fused_head(model) if options.fused_head else None
    able = shares_prompts(model, wanted=options.share_prompts)
    width = model.config.get_text_config().hidden_size
    return Scorer(model, head, share_prompts=able / (1 + ATTENTION_COST / width))


def shared_prompts(scorer: nn.Module) -> float:
    """Return `share_prompts` of a `Scorer`, or of what accelerate made of one."""
    inner = getattr(scorer, "module", scorer)
    assert isinstance(inner, Scorer)
    return inner.share_prompts


def parts_of(
    scorer: nn.Module,
    rollout: Rollout,
    max_tokens: int,
    rows: Sequence[int] | None = None,
    *,
    whole_groups: bool = False,
) -> list[list[int]]:
    """Divide rows over forwards of a `Scorer`, or of what accelerate made of one, as `microbatches` does.

    Args:
        scorer: whose forwards they are.
        rollout: where the rows are from.
        max_tokens: of a forward.
        rows: to divide; None: all.
        whole_groups: keep the completions of a prompt together.
    """
    everything = list(range(len(rollout.texts))) if rows is None else list(rows)
    sharing = shared_prompts(scorer)
    return microbatches(rollout, everything, max_tokens, whole_groups=whole_groups, share_prompts=sharing)


def padded_inputs(rollout: Rollout) -> dict[str, Tensor | bool]:
    """Return what a model is called with to go over prompts and completions in rows of their own."""
    input_ids = torch.cat([rollout.prompt_ids, rollout.completion_ids], dim=1)[:, :-1]
    # Padding on the right needs no mask, since no real token attends to what comes after it; and a mask without a hole
    # lets attention take its fast causal path.
    seen = torch.ones_like(rollout.completion_mask)
    attention_mask = torch.cat([rollout.prompt_mask, seen], dim=1)[:, :-1]
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask.long(),
        "position_ids": positions(attention_mask),
        "use_cache": False,
    }


def score_parts(
    scorer: nn.Module, rollout: Rollout, parts: Iterable[list[int]], temperature: float, outputs: tuple[str, ...]
) -> TokenStats:
    """Compute the statistics of a rollout by a forward for each part of its rows.

    Args:
        scorer: a `Scorer`, or what accelerate made of one.
        rollout: N completions of at most T tokens.
        parts: rows, each in one part at least.
        temperature: that of sampling; greater than 0.
        outputs: the fields of `TokenStats` to compute.

    Returns:
        (N, T) fields, or (N, T, k) of those that have k numbers a token, 0 outside the completion mask.
    """
    fields: dict[str, Tensor] = {}
    for rows in parts:
        stats = scorer(rollout.select(rows), temperature, outputs=outputs)
        for name in outputs:
            values = getattr(stats, name)
            whole = fields.setdefault(name, values.new_zeros(*rollout.completion_ids.shape, *values.shape[2:]))
            whole[rows, : values.shape[1]] = values
    return TokenStats(**fields)
