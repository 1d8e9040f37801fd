"""The head of a language model with the GRPO loss on it: ours and others', on one and the same problem.

What `test_cpu_linear_grpo.py`, `memory.py` and `gpu_heads.py` measure. Every implementation takes a `Problem` and
returns its loss, differentiable in the hidden states and in the weight: loss type "dapo" (arXiv 2503.14476), with the
probability ratio clipped and a KL penalty to a reference. Peers that compute log-probabilities are composed with that
loss in plain torch, as their users do; those that are not installed raise ImportError when asked for.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON, BETA = 0.2, 0.04
LOGITS_STD = 2.0


@dataclass(frozen=True)
class Problem:
    """B completions of T tokens, all of which count."""

    hidden: Tensor
    """(B, T, H), a leaf."""
    weight: Tensor
    """(V, H), a leaf."""
    targets: Tensor
    """(B, T) int64."""
    advantages: Tensor
    """(B,) float32."""
    old_logprob: Tensor
    """(B, T) float32; two thirds of the ratios lie outside the clip range."""
    ref_logprob: Tensor
    """(B, T) float32."""

    @property
    def gradient_bytes(self) -> int:
        return self.hidden.nbytes + self.weight.nbytes


def make_problem(
    batch: int, length: int, vocab_size: int, hidden_size: int, dtype: torch.dtype, device: str = "cpu"
) -> Problem:
    """Random tensors whose logits have a standard deviation of 2. No temporary is larger than a row of the batch."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int, std: float = 1.0, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=device).normal_(std=std, generator=generator)

    hidden = normal(batch, length, hidden_size, dtype=dtype)
    weight = normal(vocab_size, hidden_size, std=LOGITS_STD / math.sqrt(hidden_size), dtype=dtype)
    targets = torch.randint(vocab_size, (batch, length), device=device, generator=generator)
    # The mean of exp(z) over normal logits stands in for the sum over the vocabulary: exact enough for a ratio near 1.
    logprob = torch.empty(batch, length, device=device)
    for row, h, y in zip(logprob, hidden, targets, strict=True):
        logsumexp = math.log(vocab_size) + LOGITS_STD**2 / 2 * h.float().square().mean(-1)
        row.copy_((h.float() * weight[y].float()).sum(-1) - logsumexp)
    return Problem(
        hidden=hidden.requires_grad_(),
        weight=weight.requires_grad_(),
        targets=targets,
        advantages=normal(batch),
        # Clipped on either side or not at all, never so near the bound that rounding decides which.
        old_logprob=logprob + 0.4 * torch.randint(-1, 2, logprob.shape, device=device, generator=generator),
        ref_logprob=logprob + normal(batch, length, std=0.3),
    )


def dapo_loss(logprob: Tensor, problem: Problem) -> Tensor:
    """The loss of (B, T) log-probabilities, in plain torch and in their dtype."""
    ratio = (logprob - problem.old_logprob).exp()
    advantages = problem.advantages[:, None]
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(1 - EPSILON, 1 + EPSILON) * advantages)
    log_ratio = problem.ref_logprob - logprob
    return (BETA * (log_ratio.exp() - log_ratio - 1) - surrogate).mean()


def exact(problem: Problem, rows: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, gradient of the hidden states and of the weight in float64, in blocks of that many rows."""
    hidden, weight = (leaf.detach().double().requires_grad_() for leaf in (problem.hidden, problem.weight))
    hidden_blocks, target_blocks = hidden.flatten(0, 1).split(rows), problem.targets.flatten().split(rows)
    logprobs = []
    with torch.no_grad():
        for h, y in zip(hidden_blocks, target_blocks, strict=True):
            logprobs.append((h @ weight.T).log_softmax(-1).gather(-1, y[:, None])[:, 0])
    logprob = torch.cat(logprobs).view_as(problem.targets).requires_grad_()
    loss = dapo_loss(logprob, problem)
    loss.backward()
    assert logprob.grad is not None
    for h, y, upstream in zip(hidden_blocks, target_blocks, logprob.grad.flatten().split(rows), strict=True):
        (h @ weight.T).log_softmax(-1).gather(-1, y[:, None])[:, 0].backward(upstream)
    assert hidden.grad is not None
    assert weight.grad is not None
    return loss.detach(), hidden.grad, weight.grad


def largest_error(problem: Problem, loss: Tensor, truth: tuple[Tensor, Tensor, Tensor]) -> float:
    """The largest relative error of the loss and of the two gradients; of a gradient, that of the norms."""
    assert problem.hidden.grad is not None
    assert problem.weight.grad is not None
    errors = [((loss.double() - truth[0]) / truth[0]).abs().item()]
    for gradient, expected in zip((problem.hidden.grad, problem.weight.grad), truth[1:], strict=True):
        errors.append(((gradient.double() - expected).norm() / expected.norm()).item())
    return max(errors)


def forward_backward(implementation: Loss, problem: Problem) -> Tensor:
    """One step's work: the loss, and fresh gradients in `.grad`."""
    problem.hidden.grad = problem.weight.grad = None
    loss = implementation(problem)
    loss.backward()
    return loss.detach()


Loss = Callable[[Problem], Tensor]
# (N, H) hidden states, (V, H) weight and (N,) targets to (N,) log-probabilities.
Head = Callable[[Tensor, Tensor, Tensor], Tensor]


def composed(head: Head) -> Loss:
    """A head that gives log-probabilities, with the loss in plain torch."""

    def loss(problem: Problem) -> Tensor:
        logprob = head(problem.hidden.flatten(0, 1), problem.weight, problem.targets.flatten())
        return dapo_loss(logprob.view_as(problem.targets), problem)

    return loss


def naive_head(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.log_softmax(F.linear(hidden, weight).float(), dim=-1).gather(-1, targets[:, None])[:, 0]


def trl() -> Loss:
    """TRL's chunked head as its GRPOTrainer calls it: log-probability and entropy, tiles of 32768 columns."""
    chunked = importlib.import_module("trl.kernels").ChunkedLogProbFunction

    def head(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        return chunked.apply(hidden, weight, None, targets, 1.0, 32768, None, 1.0, ("entropy",))[0]

    return composed(head)


def liger_grpo() -> Loss:
    """Liger's chunked GRPO loss with its defaults: one completion at a time, the arithmetic of the loss compiled."""
    module = importlib.import_module("liger_kernel.chunked_loss")
    criterion = module.LigerFusedLinearGRPOLoss(
        beta=BETA, epsilon_low=EPSILON, epsilon_high=EPSILON, loss_type="dapo", use_ref_model=True
    )

    def loss(problem: Problem) -> Tensor:
        value, _ = criterion(
            problem.hidden,
            problem.weight,
            problem.targets,
            torch.ones_like(problem.targets),
            problem.advantages,
            ref_per_token_logps=problem.ref_logprob,
            old_per_token_logps=problem.old_logprob,
        )
        return value

    return loss


def liger_scaled_cross_entropy() -> Loss:
    function = importlib.import_module("liger_kernel.ops").LigerFusedLinearScaledCrossEntropyFunction
    return composed(lambda hidden, weight, targets: -function.apply(hidden, weight, targets, 1.0, -100, 1, True)[0])


def verl() -> Loss:
    function = importlib.import_module("verl.utils.kernel.linear_cross_entropy").linear_cross_entropy
    return composed(lambda hidden, weight, targets: function(hidden, weight, targets, 1.0, "none")[0])


def cut_cross_entropy() -> Loss:
    """CCE with its defaults, which leave out gradients below the rounding of bfloat16."""
    function = importlib.import_module("cut_cross_entropy").linear_cross_entropy
    return composed(lambda hidden, weight, targets: -function(hidden, weight, targets, reduction="none"))


def linear_token_stats() -> Loss:
    op = importlib.import_module("rlif_kernels").linear_token_stats
    return composed(lambda hidden, weight, targets: op(hidden, weight, targets).logprob)


def linear_grpo_loss(**options: Any) -> Loss:
    """Ours, with further arguments of the op."""
    op = importlib.import_module("rlif_kernels").linear_grpo_loss

    def loss(problem: Problem) -> Tensor:
        return op(
            problem.hidden,
            problem.weight,
            problem.targets,
            problem.advantages,
            problem.old_logprob,
            problem.ref_logprob,
            loss_type="dapo",
            epsilon_low=EPSILON,
            beta=BETA,
            **options,
        ).loss

    return loss


ON_ANY_DEVICE: dict[str, Callable[[], Loss]] = {
    "naive": lambda: composed(naive_head),
    "compiled naive": lambda: torch.compile(composed(naive_head)),
    "TRL": trl,
    "Liger GRPO": liger_grpo,
    "rlif, linear_token_stats": linear_token_stats,
    "rlif, linear_grpo_loss": linear_grpo_loss,
}
ON_GPUS: dict[str, Callable[[], Loss]] = {
    **ON_ANY_DEVICE,
    "Liger scaled cross-entropy": liger_scaled_cross_entropy,
    "verl": verl,
    "CCE": cut_cross_entropy,
}
