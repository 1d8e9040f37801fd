"""Checks of what the fused losses are told of the loss, and the form in which the library ops take it."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from rlif_kernels.checks import RowArguments
from rlif_kernels.policy_loss import IMPORTANCE_SAMPLING_LEVELS, LOSS_TYPES, LossOptions, LossRows, token_weights
from rlif_kernels.stats import DEFAULT_OUTPUTS, FIELDS, IGNORE_INDEX


class LossArguments(NamedTuple):
    """What the library ops are told of the loss, checked."""

    loss_rows: list[Tensor | None]
    """`LossRows`, flat."""
    options: list[float]
    """`LossOptions`."""
    sequence_length: int
    """Tokens that share a ratio; 0 where each has its own."""


def loss_arguments(
    rows: RowArguments,
    advantages: Tensor,
    old_logprob: Tensor | None,
    ref_logprob: Tensor | None,
    loss_type: str,
    epsilon_low: float,
    epsilon_high: float | None,
    delta: float | None,
    beta: float,
    importance_sampling_level: str,
    entropy_coef: float,
    self_certainty_coef: float,
    num_items_in_batch: int | Tensor | None,
    max_completion_length: int | None,
    loss_scale: float,
) -> tuple[RowArguments, LossArguments]:
    """Check the arguments of the loss, which are those of `grpo_loss`.

    Returns:
        the rows' arguments, with the statistics that the loss needs added to those requested, and the loss's.
    """
    targets = rows.targets
    if targets.ndim == 0:
        raise ValueError("targets has shape (); expected (..., T), T the tokens of a sequence")
    requested = rows.outputs.split(",")
    if not set(requested) <= set(DEFAULT_OUTPUTS):
        raise ValueError(f"outputs is {tuple(requested)}; expected names out of {DEFAULT_OUTPUTS}")
    for name, value, choices in (
        ("loss_type", loss_type, LOSS_TYPES),
        ("importance_sampling_level", importance_sampling_level, IMPORTANCE_SAMPLING_LEVELS),
    ):
        if value not in choices:
            raise ValueError(f"{name} is {value!r}; expected one of {choices}")
    epsilon_high = epsilon_low if epsilon_high is None else epsilon_high
    for name, number, at_least in (
        ("epsilon_low", epsilon_low, 0.0),
        ("epsilon_high", epsilon_high, 0.0),
        ("delta", 1.0 if delta is None else delta, 0.0),
        ("beta", beta, 0.0),
        ("entropy_coef", entropy_coef, -math.inf),
        ("self_certainty_coef", self_certainty_coef, -math.inf),
        ("loss_scale", loss_scale, -math.inf),
    ):
        if not isinstance(number, int | float) or isinstance(number, bool):
            raise TypeError(f"{name} is {number!r}; expected a number")
        if not math.isfinite(number) or number < at_least:
            raise ValueError(f"{name} is {number}; expected a finite number" + (", 0 or more" if at_least == 0 else ""))
    for name, count in (("max_completion_length", max_completion_length), ("num_items_in_batch", num_items_in_batch)):
        if isinstance(count, Tensor) and name == "num_items_in_batch":
            if count.numel() != 1:
                raise ValueError(f"{name} has shape {tuple(count.shape)}; expected one number")
        elif count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 1):
            raise ValueError(f"{name} is {count!r}; expected a positive integer or None")
    _check_tokens("advantages", advantages, targets, (targets.shape, targets.shape[:-1]))
    for name, logprob in (("old_logprob", old_logprob), ("ref_logprob", ref_logprob)):
        if logprob is not None:
            _check_tokens(name, logprob, targets, (targets.shape,))
    if beta and ref_logprob is None:
        raise ValueError(f"beta is {beta} and ref_logprob is None; expected the reference's log-probabilities, or 0")

    active = targets != IGNORE_INDEX
    per_token = advantages.shape == targets.shape
    if not per_token:
        advantages = advantages[..., None].expand(targets.shape)
    weight, mean_weight = token_weights(active, loss_type, num_items_in_batch, max_completion_length, loss_scale)
    # What stands in masked tokens is padding: it may be anything.
    loss_rows = LossRows(advantages, weight, mean_weight, old_logprob, ref_logprob).map(
        lambda value: value.detach().float().where(active, 0).contiguous().view(-1)
    )
    options = LossOptions(
        epsilon_low, epsilon_high, math.inf if delta is None else delta, beta, entropy_coef, self_certainty_coef
    )
    needed = {"logprob", *requested}
    needed |= {name for name in DEFAULT_OUTPUTS[1:] if getattr(options, f"{name}_coef")}
    rows = rows._replace(outputs=",".join(name for name in FIELDS if name in needed))
    # On-policy the ratio of a sequence is 1 as well, and its derivative that of the tokens' ratios, unless their
    # advantages differ.
    shared = importance_sampling_level == "sequence" and (old_logprob is not None or per_token)
    by_sequence = shared and targets.numel() > 0
    loss = LossArguments(list(loss_rows), [float(x) for x in options], targets.shape[-1] if by_sequence else 0)
    return rows, loss


def _check_tokens(name: str, tensor: Tensor, targets: Tensor, shapes: tuple[torch.Size, ...]) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} is a {type(tensor).__name__}; expected a torch.Tensor")
    if tensor.shape not in shapes:
        expected = " or ".join(str(tuple(shape)) for shape in dict.fromkeys(shapes))
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected {expected}, as targets are")
    if not tensor.is_floating_point():
        raise TypeError(f"{name} has dtype {tensor.dtype}; expected a floating dtype")
    if tensor.device != targets.device:
        raise ValueError(f"{name} is on {tensor.device}; expected {targets.device}, the device of targets")
