"""verl's functions of logits and heads, with verl's signatures, shapes and dtypes, through our kernels.

Each is differentiable and reads the logits once; none has a temporary of their size. Where verl computes in the
logits' dtype, ours compute in float32 and round the result, so that bfloat16 logits lose nothing on the way. Logits are
float32, bfloat16 or float16.

Shapes: (..., V) logits, (...) labels and results.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from verl.utils import torch_functional as verl_functional

from rlif_kernels import TokenStats, linear_token_stats, token_stats
from rlif_kernels.checks import can_overwrite

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class Recording(NamedTuple):
    """What is to be recorded, and what has been so far."""

    outputs: tuple[str, ...]
    """Fields of `TokenStats`."""
    found: list[TokenStats]
    """One for each call, with these fields, detached."""


_recording: ContextVar[Recording | None] = ContextVar("statistics", default=None)


@contextmanager
def recorded_statistics(outputs: tuple[str, ...]) -> Iterator[list[TokenStats]]:
    """Collect statistics of what the functions below compute log-probabilities of: they are in the same pass.

    verl's functions return log-probabilities and entropies alone, and the engine calls them from deep within a model.
    """
    recording = Recording(outputs, [])
    token = _recording.set(recording)
    try:
        yield recording.found
    finally:
        _recording.reset(token)


def recorded_so_far() -> list[TokenStats]:
    """Return what `recorded_statistics` has collected so far, nothing outside of it."""
    recording = _recording.get()
    return [] if recording is None else recording.found


def _wanted(*outputs: str) -> tuple[str, ...]:
    """Return the fields to compute: these, and those to record."""
    recording = _recording.get()
    return outputs if recording is None else tuple(dict.fromkeys((*outputs, *recording.outputs)))


def _record(stats: TokenStats) -> None:
    """Keep what is to be recorded of a call."""
    recording = _recording.get()
    if recording is not None:
        fields = {name: getattr(stats, name) for name in recording.outputs}
        recording.found.append(TokenStats(**{name: each.detach() for name, each in fields.items() if each is not None}))


def _statistic(logits: Tensor, name: str) -> Tensor:
    """Compute a statistic that does not depend on the label."""
    any_label = torch.zeros(logits.shape[:-1], dtype=torch.int64, device=logits.device)
    value: Tensor = getattr(token_stats(logits, any_label, outputs=(name,)), name)
    return value


def logprobs_from_logits(logits: Tensor, labels: Tensor, inplace_backward: bool = True) -> Tensor:
    """Compute log-probabilities of the labels; a label of -100 gives 0.

    float32 where verl would call flash-attention's cross-entropy, else the logits' dtype, as verl has it.
    `inplace_backward` is honoured where an operation computed the logits and ignored where it would overwrite a leaf or
    elements that share memory.

    Raises:
        RuntimeError: from autograd, if another operation needs the logits in its backward after this one has written
            its gradient there: pass `inplace_backward=False`, as verl's engines do with an entropy.
    """
    inplace = inplace_backward and can_overwrite(logits)
    stats = token_stats(logits, labels, outputs=_wanted("logprob"), inplace_backward=inplace)
    _record(stats)
    assert stats.logprob is not None
    return stats.logprob if _verl_uses_flash_attention() else stats.logprob.to(logits.dtype)


def _verl_uses_flash_attention() -> bool:
    available: bool = verl_functional.FLAH_ATTN_CROSS_ENTROPY_LOSS_AVAILABLE
    return available and os.environ.get("VERL_DISABLE_FLASH_ATTN_CE", "0") != "1"


def entropy_from_logits(logits: Tensor) -> Tensor:
    """Compute the entropy in nats, in the logits' dtype."""
    return _statistic(logits, "entropy").to(logits.dtype)


def entropy_from_logits_with_chunking(logits: Tensor, chunk_size: int = 2048) -> Tensor:
    """Compute the entropy in nats, float32. There is nothing to divide into chunks: no row leaves anything behind."""
    return _statistic(logits, "entropy")


def calculate_sum_pi_squared_from_logits(logits: Tensor) -> Tensor:
    """Compute the collision probability, sum of p squared, in the logits' dtype."""
    return _statistic(logits, "sum_sq_probs").to(logits.dtype)


def fused_linear_for_ppo_forward(
    self: nn.Module, hidden_states: Tensor, vocab_weights: Tensor, input_ids: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """`FusedLinearForPPO.forward`: log-probabilities, float32, and entropies, of the hidden states' dtype.

    (..., H) hidden states, (V, H) weights, (...) ids. The module's `chunk_size` and `impl_backend` are not used: tiles
    of logits follow from their bytes.
    """
    stats = linear_token_stats(
        hidden_states, vocab_weights, input_ids, temperature=temperature, outputs=_wanted("logprob", "entropy")
    )
    _record(stats)
    assert stats.logprob is not None
    assert stats.entropy is not None
    return stats.logprob, stats.entropy.to(hidden_states.dtype)


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    temperature: float | None = 1.0,
    reduction: str | None = "none",
    dist_process_group: ProcessGroup | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute log-probabilities and entropies of a head's logits, float32, which are never rounded: as verl's kernel.

    Args:
        hidden: (..., H), of N rows in all.
        weight: (V, H), or this rank's rows of it, in the order of the ranks of `dist_process_group`.
        labels: N ids in the whole vocabulary.
        reduction: "none", or "sum" or "mean" of the log-probabilities over all rows.
        dist_process_group: the group that the vocabulary is divided over. As with verl's kernel, the gradient of
            `hidden` is this rank's share, to be summed over the group by the caller.

    Returns:
        (N,) log-probabilities, or one number with a reduction, and (N,) entropies.

    Raises:
        ValueError: another reduction, and as `linear_token_stats` does.
    """
    if reduction is None or reduction.lower() not in ("none", "sum", "mean"):
        raise ValueError(f'reduction is {reduction!r}; expected "none", "sum" or "mean"')
    rows = hidden.view(-1, hidden.shape[-1])
    if dist_process_group is not None and rows.requires_grad:
        size = torch.distributed.get_world_size(dist_process_group)
        rows.register_hook(lambda gradient: gradient / size)  # ours is the sum already
    stats = linear_token_stats(
        rows,
        weight,
        labels.view(-1),
        temperature=1.0 if temperature is None else temperature,
        logits_dtype=torch.float32,  # what the products of verl's kernel are kept in
        outputs=_wanted("logprob", "entropy"),
        group=dist_process_group,
    )
    _record(stats)
    assert stats.logprob is not None
    assert stats.entropy is not None
    if reduction.lower() == "none":
        return stats.logprob, stats.entropy
    return stats.logprob.sum() if reduction.lower() == "sum" else stats.logprob.mean(), stats.entropy
