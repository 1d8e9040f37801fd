"""The four ops, forward and backward, each beside its naive form on the same tensors.

What `benchmarks.gates.gate`, `benchmarks.scaling` and `test_cpu_ops.py` run: small, and without any peer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rlif_kernels import GRPOLoss, TokenStats, grpo_loss, linear_grpo_loss, linear_token_stats, token_stats

OPS = ("token_stats", "linear_token_stats", "grpo_loss", "linear_grpo_loss")
COMPLETION_LENGTH = 32
EPSILON, BETA = 0.2, 0.04


@dataclass
class Case:
    """One op at one shape. Calling either implementation gives its loss, and the gradients in the leaves' `.grad`."""

    leaves: tuple[Tensor, ...]
    """Logits (B, T, V), or hidden states (B, T, H) and weight (V, H)."""
    losses: dict[str, Callable[[], Tensor]]
    """By name, "naive" or "rlif": the loss of the leaves."""

    def run(self, implementation: str) -> Tensor:
        """Forward and backward with fresh gradients; returns the loss."""
        self.drop_gradients()
        loss = self.losses[implementation]()
        loss.backward()
        return loss.detach()

    def drop_gradients(self) -> None:
        for leaf in self.leaves:
            leaf.grad = None

    @property
    def gradient_bytes(self) -> int:
        return sum(leaf.nbytes for leaf in self.leaves)

    def largest_difference(self) -> float:
        """The largest relative difference of ours from the naive form: of the losses, and of the gradients' norms."""
        results = {}
        for name in self.losses:
            loss = self.run(name)
            results[name] = [loss.double(), *(leaf.grad.double() for leaf in self.leaves if leaf.grad is not None)]
        self.drop_gradients()
        pairs = zip(results["rlif"], results["naive"], strict=True)
        return max(((ours - naive).norm() / naive.norm()).item() for ours, naive in pairs)


def make_case(
    op: str,
    tokens: int,
    vocab_size: int,
    hidden_size: int = 64,
    dtype: torch.dtype = torch.float32,
    tile_bytes: int = 512 << 20,
) -> Case:
    """Random tensors for an op of `OPS`.

    Args:
        tokens: in completions of `COMPLETION_LENGTH`, of which it must be a multiple.
        hidden_size, tile_bytes: of the ops that have the head in them.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (tokens // COMPLETION_LENGTH, COMPLETION_LENGTH)

    def normal(*size: int, std: float = 1.0, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(size, dtype=dtype).normal_(std=std, generator=generator)

    targets = torch.randint(vocab_size, shape, generator=generator)
    leaves: tuple[Tensor, ...]
    if op.startswith("linear"):
        weight = normal(vocab_size, hidden_size, std=2 / math.sqrt(hidden_size), dtype=dtype)
        leaves = (normal(*shape, hidden_size, dtype=dtype), weight)
    else:
        leaves = (normal(*shape, vocab_size, std=2, dtype=dtype),)
    # The ops take what comes before the targets as the naive form takes it to logits.
    to_logits: Callable[[], Tensor] = (lambda: F.linear(*leaves)) if len(leaves) == 2 else (lambda: leaves[0])
    tile: dict[str, Any] = {"tile_bytes": tile_bytes} if len(leaves) == 2 else {}
    naive: Callable[[], Tensor]
    ours: Callable[[], Tensor]
    if op.endswith("token_stats"):
        statistics: Callable[..., TokenStats] = token_stats if len(leaves) == 1 else linear_token_stats
        naive = lambda: objective(naive_fields(to_logits(), targets))  # noqa: E731
        ours = lambda: objective(statistics(*leaves, targets, **tile)[:3])  # noqa: E731
    else:
        with torch.no_grad():
            logprob = naive_fields(to_logits(), targets)[0]
        # Clipped on either side or not at all, never so near the bound that rounding decides which.
        old_logprob = logprob + 0.4 * torch.randint(-1, 2, shape, generator=generator)
        rest = (targets, normal(shape[0]), old_logprob, logprob + normal(*shape, std=0.3))
        loss: Callable[..., GRPOLoss] = grpo_loss if len(leaves) == 1 else linear_grpo_loss
        options = {"loss_type": "dapo", "epsilon_low": EPSILON, "beta": BETA, **tile}
        naive = lambda: naive_loss(to_logits(), *rest)  # noqa: E731
        ours = lambda: loss(*leaves, *rest, **options).loss  # noqa: E731
    for leaf in leaves:
        leaf.requires_grad_()
    return Case(leaves, {"naive": naive, "rlif": ours})


def objective(fields: tuple[Any, ...]) -> Tensor:
    """A number that log-probability, entropy and self-certainty have a share in."""
    logprob, entropy, self_certainty = fields
    return (logprob - 0.1 * entropy + 0.1 * self_certainty).mean()


def naive_fields(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probability, entropy and self-certainty as their definitions say."""
    logp = F.log_softmax(logits.float(), dim=-1)
    logprob = logp.gather(-1, targets[..., None])[..., 0]
    return logprob, -(logp.exp() * logp).sum(-1), -logp.mean(-1) - math.log(logits.shape[-1])


def naive_loss(
    logits: Tensor,
    targets: Tensor,
    advantages: Tensor,
    old_logprob: Tensor,
    ref_logprob: Tensor,
) -> Tensor:
    """The loss type "dapo" (arXiv 2503.14476) with a KL penalty, in plain torch."""
    logp = F.log_softmax(logits.float(), dim=-1)
    logprob = logp.gather(-1, targets[..., None])[..., 0]
    ratio = (logprob - old_logprob).exp()
    gain = advantages[:, None]
    surrogate = torch.minimum(ratio * gain, ratio.clamp(1 - EPSILON, 1 + EPSILON) * gain)
    log_ratio = ref_logprob - logprob
    return (BETA * (log_ratio.exp() - log_ratio - 1) - surrogate).mean()
