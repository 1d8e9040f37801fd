"""Checks of what the fused losses are told of the loss, and the tensors that it comes to for each row.

Each error names the argument, what came and what was expected.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlif_kernels.checks import RowArguments, check_tensor, finite_number
from rlif_kernels.loss_options import (
    HIGHEST_LOG_WEIGHT,
    LOWEST_LOG_WEIGHT,
    LossOptions,
    LossVariant,
    check_loss_options,
    policy_term,
    selects_tokens,
    variant_numbers,
)
from rlif_kernels.loss_terms import LossRows, token_weights
from rlif_kernels.stats import DEFAULT_OUTPUTS, FIELDS, IGNORE_INDEX


class LossArguments(NamedTuple):
    """What the ops are told of the loss, checked."""

    loss_rows: LossRows
    """Flat, detached; 0 in masked rows."""
    options: LossOptions
    term: str
    """What the ratio does: `loss_options.policy_term`."""
    sequence_length: int
    """Tokens that share a ratio; 0 where each has its own."""
    selects: bool
    """Whether tokens are chosen by what all tokens say: no kernel knows that, and `policy_loss` does it."""


def loss_arguments(
    arguments: RowArguments,
    advantages: Tensor,
    old_logprob: Tensor | None,
    ref_logprob: Tensor | None,
    token_weight: Tensor | None,
    variant: LossVariant,
    *,
    loss_type: str,
    epsilon_low: float,
    epsilon_high: float | None,
    delta: float | None,
    beta: float,
    kl: str,
    importance_sampling_level: str,
    entropy_coef: float,
    self_certainty_coef: float,
    num_items_in_batch: int | Tensor | None,
    max_completion_length: int | None,
    loss_scale: float,
) -> tuple[RowArguments, LossArguments]:
    """Check the arguments of the loss, which are those of `grpo_loss`.

    Returns:
        the arguments of the rows, with the statistics that the loss needs added to those requested, and of the loss.
    """
    targets, requested = arguments.rows.targets, arguments.outputs
    if targets.ndim == 0:
        raise ValueError("targets has shape (); expected (..., T), T the tokens of a sequence")
    if not set(requested) <= set(DEFAULT_OUTPUTS):
        raise ValueError(f"outputs is {requested}; expected names out of {DEFAULT_OUTPUTS}")
    numbers = variant_numbers(variant)
    check_loss_options(loss_type, importance_sampling_level, delta, numbers)
    epsilon_high = epsilon_low if epsilon_high is None else epsilon_high
    options = LossOptions(
        finite_number("epsilon_low", epsilon_low, at_least_0=True),
        finite_number("epsilon_high", epsilon_high, at_least_0=True),
        math.inf if delta is None else finite_number("delta", delta, at_least_0=True),
        finite_number("beta", beta, at_least_0=True),
        finite_number("entropy_coef", entropy_coef),
        finite_number("self_certainty_coef", self_certainty_coef),
        *(finite_number(name, numbers[name]) for name in LossOptions._fields[6:-1]),
    )._replace(kl_ratio=float(kl == "k3_corrected" and ref_logprob is not None))
    loss_scale = finite_number("loss_scale", loss_scale)
    for name, count in (("max_completion_length", max_completion_length), ("num_items_in_batch", num_items_in_batch)):
        if isinstance(count, Tensor) and name == "num_items_in_batch":
            if count.numel() != 1:
                raise ValueError(f"{name} has shape {tuple(count.shape)}; expected one number")
        elif count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 1):
            raise ValueError(f"{name} is {count!r}; expected a positive integer or None")
    _check_tokens("advantages", advantages, targets, (targets.shape, targets.shape[:-1]))
    for name, values in (("old_logprob", old_logprob), ("ref_logprob", ref_logprob), ("token_weight", token_weight)):
        if values is not None:
            _check_tokens(name, values, targets, (targets.shape,))
    if beta and kl != "full" and ref_logprob is None:
        raise ValueError(f"beta is {beta} and ref_logprob is None; expected the reference's log-probabilities, or 0")

    term, selects = policy_term(loss_type), selects_tokens(numbers)
    weight, mean_weight = token_weights(
        targets != IGNORE_INDEX, loss_type, num_items_in_batch, max_completion_length, loss_scale
    )
    per_token = advantages.shape == targets.shape or (token_weight is not None and term != "vespo")
    loss_rows = _loss_rows(targets, advantages, weight, mean_weight, old_logprob, ref_logprob, token_weight, term)
    needed = {"logprob", *requested} | ({"entropy"} if numbers["top_entropy_quantile"] < 1 else set())
    needed |= {name for name in DEFAULT_OUTPUTS[1:] if getattr(options, f"{name}_coef")}
    arguments = arguments._replace(outputs=tuple(name for name in FIELDS if name in needed))
    # On-policy the ratio of a sequence is 1 as well, and its derivative that of the tokens' ratios, unless what it
    # multiplies differs between them: advantages, or a penalty. Off-policy "vespo" and "gmpo" weigh whole sequences
    # whatever the level is.
    level = importance_sampling_level == "sequence"
    differs = (per_token and term not in ("cispo", "vespo")) or (level and options.kl_ratio * options.beta != 0)
    by_sequence = (level or term in ("vespo", "gmpo")) and (old_logprob is not None or differs)
    length = targets.shape[-1] if by_sequence and targets.numel() > 0 else 0
    return arguments, LossArguments(loss_rows, options, term, length, selects)


def _loss_rows(
    targets: Tensor,
    advantages: Tensor,
    weight: Tensor,
    mean_weight: Tensor,
    old_logprob: Tensor | None,
    ref_logprob: Tensor | None,
    token_weight: Tensor | None,
    term: str,
) -> LossRows:
    """What each row brings along."""
    active = targets != IGNORE_INDEX
    if advantages.shape != targets.shape:
        advantages = advantages[..., None].expand(targets.shape)

    # What stands in masked tokens is padding: it may be anything.
    def cleared(value: Tensor) -> Tensor:
        return value.detach().float().where(active, 0)

    advantage, log_weight = cleared(advantages), None
    if token_weight is not None and term == "vespo":
        logs = token_weight.detach().float().log().clamp(LOWEST_LOG_WEIGHT, HIGHEST_LOG_WEIGHT).where(active, 0)
        log_weight = logs.sum(-1, keepdim=True).expand(targets.shape).where(active, 0).view(-1)
    elif token_weight is not None:
        advantage = advantage * cleared(token_weight)
    old, ref = (None if logprob is None else cleared(logprob).view(-1) for logprob in (old_logprob, ref_logprob))
    return LossRows(advantage.view(-1), weight.view(-1), mean_weight.view(-1), old, ref, log_weight)


def _check_tokens(name: str, tensor: Any, targets: Tensor, shapes: tuple[torch.Size, ...]) -> None:
    check_tensor(name, tensor)
    if tensor.shape not in shapes:
        expected = " or ".join(str(tuple(shape)) for shape in dict.fromkeys(shapes))
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected {expected}, as targets are")
    if not tensor.is_floating_point():
        raise TypeError(f"{name} has dtype {tensor.dtype}; expected a floating dtype")
    if tensor.device != targets.device:
        raise ValueError(f"{name} is on {tensor.device}; expected {targets.device}, the device of targets")
