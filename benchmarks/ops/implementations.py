"""Who does the work of each op of `benchmarks.ops.problems`: ours, plain PyTorch, and every peer as its users call it.

An implementation takes a `Problem` and returns the op's outputs, differentiable. It is built when it is asked for, so
that a peer which is not there, or does not work here, costs nobody else anything: whatever building raises is its
reason to be missing. Where a peer computes less than the op asks for, `composed` says what the rest is made of.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.ops import peers
from benchmarks.ops.peers import Function, loss_of, rows_of
from benchmarks.ops.problems import BETA, EPSILON, Problem, dapo_loss, naive_statistics

ANYWHERE, GPUS = ("cpu", "cuda"), ("cuda",)


@dataclass(frozen=True)
class Implementation:
    """One way to do the work of an op."""

    name: str
    """As in tables."""
    package: str
    """The distribution that does it: its version is printed, and `--peers` chooses by it."""
    build: Callable[[], Function]
    composed: str = ""
    """What the package does not compute, and of what it is made instead; empty if it computes everything."""
    devices: tuple[str, ...] = ANYWHERE
    compiled: bool = False
    """For each shape anew, which takes seconds."""
    overwrites_logits: bool = False
    """The gradient is written over the logits: they are put back, untimed, before each call."""
    padded_logits: bool = False
    """It takes logits of one position more in each completion, as models return them, and ignores the last."""


# --- plain PyTorch


def eager_statistics(logits: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    return naive_statistics(logits.float(), targets)


def eager_without_entropy(logits: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    logp = F.log_softmax(logits.float(), dim=-1)
    return logp.gather(-1, targets[:, None])[:, 0], -logp.mean(-1) - math.log(logits.shape[-1])


def intuitor_statistics(logits: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    """logsumexp - mean of float32 logits, as in Intuitor's trainer (arXiv 2505.19590), and the entropy likewise."""
    logits = logits.float()
    logsumexp = logits.logsumexp(-1)
    chosen = logits.gather(-1, targets[:, None])[:, 0]
    entropy = logsumexp - (logits.softmax(-1) * logits).sum(-1)
    return chosen - logsumexp, entropy, logsumexp - logits.mean(-1) - math.log(logits.shape[-1])


def eager_loss(logits: Tensor, targets: Tensor, advantages: Tensor, old_logprob: Tensor, ref_logprob: Tensor) -> Tensor:
    logprob = F.log_softmax(logits.float(), dim=-1).gather(-1, targets.flatten()[:, None])
    return dapo_loss(logprob.view_as(targets), advantages, old_logprob, ref_logprob)


def through_head(statistics: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[Tensor, ...]]:
    return lambda hidden, weight, targets: statistics(F.linear(hidden, weight), targets)


def eager_head_loss(hidden: Tensor, weight: Tensor, *rest: Tensor) -> Tensor:
    return eager_loss(F.linear(hidden, weight), *rest)


def of_rows(function: Callable[..., tuple[Tensor, ...]], *, compiled: bool = False) -> Function:
    """A function of rows and targets, of the problem."""
    function = recompiled(function) if compiled else function
    return lambda problem: function(*rows_of(problem))


def of_loss(function: Callable[..., Tensor], *, compiled: bool = False) -> Function:
    """A function of rows, targets and what else the loss is made of, of the problem."""
    function = recompiled(function) if compiled else function

    def loss(problem: Problem) -> tuple[Tensor]:
        rows, rest = rows_of(problem)[:-1], (problem.advantages, problem.old_logprob, problem.ref_logprob)
        return (function(*rows, problem.targets, *rest),)

    return loss


def recompiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled for the shape to come alone: a second shape would be given code for any shape, which is slower."""
    torch.compiler.reset()
    return torch.compile(function)


def plain(function: Callable[..., Any], wrap: Callable[..., Function] = of_rows) -> list[Implementation]:
    """As it stands, and compiled."""
    return [
        Implementation("eager", "torch", partial(wrap, function)),
        Implementation("torch.compile", "torch", partial(wrap, function, compiled=True), compiled=True),
    ]


# --- ours


def ours(op: str, outputs: tuple[str, ...], **options: Any) -> Function:
    function = getattr(importlib.import_module("rlif_kernels"), op)

    def statistics(problem: Problem) -> tuple[Tensor, ...]:
        stats = function(*problem.leaves, problem.targets, outputs=outputs, **options)
        return tuple(getattr(stats, name) for name in outputs)

    return statistics


def our_loss(op: str, **options: Any) -> Function:
    function = getattr(importlib.import_module("rlif_kernels"), op)

    def loss(problem: Problem) -> tuple[Tensor, ...]:
        rest = (problem.targets, problem.advantages, problem.old_logprob, problem.ref_logprob)
        return (function(*problem.leaves, *rest, epsilon_low=EPSILON, beta=BETA, **options).loss,)

    return loss


def our_statistics_loss(op: str) -> Function:
    """The loss in plain torch on our log-probabilities: what a trainer gets that only swaps these."""
    statistics = ours(op, ("logprob",))
    return lambda problem: loss_of(problem, statistics(problem)[0])


THREE = ("logprob", "entropy", "self_certainty")
TWO = ("logprob", "self_certainty")
CERTAINTY = "self-certainty: target's logit - logprob - mean logit"
HEAD_CERTAINTY = "self-certainty: target's logit - logprob - hidden state x mean row of the weight"
SMOOTHED = "self-certainty: cross-entropy with label_smoothing = 1"
LOSS_IN_TORCH = "the loss from log-probabilities, in plain torch"


def our_three(op: str, outputs: tuple[str, ...]) -> list[Implementation]:
    return [
        Implementation("rlif", "rlif", partial(ours, op, outputs)),
        Implementation("rlif, torch backend", "rlif", partial(ours, op, outputs, backend="torch")),
    ]


def our_losses(op: str, statistics_op: str) -> list[Implementation]:
    return [
        Implementation("rlif", "rlif", partial(our_loss, op)),
        Implementation("rlif, torch backend", "rlif", partial(our_loss, op, backend="torch")),
        Implementation(f"rlif, {statistics_op}", "rlif", partial(our_statistics_loss, statistics_op), LOSS_IN_TORCH),
    ]


_TRL_UTILS = "trl.trainer.utils"
IMPLEMENTATIONS: dict[str, list[Implementation]] = {
    "token_stats": [
        *plain(eager_statistics),
        Implementation("Intuitor's formulas", "torch", partial(of_rows, intuitor_statistics)),
        Implementation("TRL", "trl", peers.installed(_TRL_UTILS, peers.trl_statistics), CERTAINTY),
        Implementation(
            "verl", "verl", peers.installed("verl.utils.torch_functional", peers.verl_statistics), CERTAINTY
        ),
        *our_three("token_stats", THREE),
    ],
    "cross_entropy": [
        *plain(eager_without_entropy),
        Implementation(
            "Liger",
            "liger_kernel",
            peers.installed("liger_kernel.ops", peers.liger_cross_entropy),
            CERTAINTY,
            GPUS,
            overwrites_logits=True,
        ),
        Implementation(
            "flash-linear-attention",
            "flash-linear-attention",
            peers.installed("fla.modules.fused_cross_entropy", peers.fla_cross_entropy),
            SMOOTHED,
            GPUS,
        ),
        Implementation(
            "quack", "quack-kernels", peers.installed("quack.cross_entropy", peers.quack_cross_entropy), CERTAINTY, GPUS
        ),
        *our_three("token_stats", TWO),
    ],
    "grpo_loss": [
        *plain(eager_loss, of_loss),
        Implementation("TRL", "trl", peers.installed(_TRL_UTILS, peers.trl_loss), LOSS_IN_TORCH),
        Implementation(
            "Liger", "liger_kernel", peers.liger_loss, devices=GPUS, overwrites_logits=True, padded_logits=True
        ),
        *our_losses("grpo_loss", "token_stats"),
    ],
    "linear_token_stats": [
        *plain(through_head(eager_statistics)),
        Implementation("TRL", "trl", partial(peers.with_certainty, partial(peers.trl_head, True)), HEAD_CERTAINTY),
        Implementation(
            "verl, FusedLinearForPPO", "verl", partial(peers.with_certainty, peers.verl_fused_linear), HEAD_CERTAINTY
        ),
        Implementation(
            "verl, linear_cross_entropy",
            "verl",
            partial(peers.with_certainty, peers.verl_linear_cross_entropy),
            HEAD_CERTAINTY,
            GPUS,
        ),
        Implementation(
            "Liger", "liger_kernel", partial(peers.with_certainty, peers.liger_scaled_cross_entropy), HEAD_CERTAINTY
        ),
        *our_three("linear_token_stats", THREE),
    ],
    "linear_cross_entropy": [
        *plain(through_head(eager_without_entropy)),
        Implementation("TRL", "trl", partial(peers.with_certainty, partial(peers.trl_head, False)), HEAD_CERTAINTY),
        Implementation(
            "CCE", "cut_cross_entropy", partial(peers.with_certainty, peers.cut_cross_entropy), HEAD_CERTAINTY
        ),
        *our_three("linear_token_stats", TWO),
    ],
    "linear_grpo_loss": [
        *plain(eager_head_loss, of_loss),
        Implementation("TRL", "trl", partial(peers.with_loss, partial(peers.trl_head, False)), LOSS_IN_TORCH),
        Implementation(
            "verl, FusedLinearForPPO", "verl", partial(peers.with_loss, peers.verl_fused_linear), LOSS_IN_TORCH
        ),
        Implementation(
            "verl, linear_cross_entropy",
            "verl",
            partial(peers.with_loss, peers.verl_linear_cross_entropy),
            LOSS_IN_TORCH,
            GPUS,
        ),
        Implementation("CCE", "cut_cross_entropy", partial(peers.with_loss, peers.cut_cross_entropy), LOSS_IN_TORCH),
        Implementation("Liger", "liger_kernel", peers.liger_head_loss),
        *our_losses("linear_grpo_loss", "linear_token_stats"),
        Implementation("rlif, 64 MiB tiles", "rlif", partial(our_loss, "linear_grpo_loss", tile_bytes=64 << 20)),
    ],
}
