"""Who does the work of each op of `benchmarks.ops.problems`: ours, plain PyTorch, and every peer as its users call it.

An implementation takes an `OpProblem` and returns the op's outputs, differentiable. Where a peer computes less than the
op asks for, `composed` says how the rest is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import rlif_kernels
from benchmarks.ops import peers
from benchmarks.ops.peers import loss_of
from benchmarks.ops.problems import LOSS, OPS, Call, Function, Op, OpProblem, dapo_loss

GPUS = ("cuda",)


@dataclass(frozen=True)
class Implementation:
    """One way to do the work of an op."""

    name: str
    """As in tables."""
    package: str
    """The distribution that does it: its version is printed, and `--peers` chooses by it."""
    build: Callable[[], Function]
    composed: str = ""
    """What the package does not compute, and how it is made instead; empty if it computes everything."""
    devices: tuple[str, ...] = ("cpu", "cuda")
    compiled: bool = False
    """For each shape anew, which takes seconds."""
    overwrites_logits: bool = False
    """The gradient is written over the logits: they are put back, untimed, before each call."""
    padded_logits: bool = False
    """It takes logits of one position more in each completion, as models return them, and ignores the last."""
    outputs: tuple[str, ...] = ()
    """Those of the op's outputs that it computes, and is compared in, if not all: it does less than the others."""

    def call(self, op: Op, problem: OpProblem) -> Call:
        """Build it for a problem."""
        op = replace(op, outputs=self.outputs) if self.outputs else op
        problem = problem.padded() if self.padded_logits else problem
        if not self.overwrites_logits:
            return Call(op, problem, self.build())
        logits = problem.leaves[0].detach()
        return Call(op, problem, self.build(), restore=partial(logits.copy_, logits.clone()))


# --- plain PyTorch: of logits (B, T, V) or of a head, as the ops themselves take them


def naive(op: Op) -> Callable[..., tuple[Tensor, ...]]:
    """The op as its definition says, written as people write it: what our speed-ups are over."""
    if op.paired:
        return partial(generalized_jsd, op)

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        logits, targets, *rest = (F.linear(*tensors[:2]), *tensors[2:]) if op.head else tensors
        logp = F.log_softmax(logits.float(), dim=-1)
        logprob = logp.gather(-1, targets[..., None])[..., 0]
        if op.outputs == LOSS:
            return (dapo_loss(logprob, *rest),)
        entropy = (-(logp.exp() * logp).sum(-1),) if "entropy" in op.outputs else ()
        return logprob, *entropy, -logp.mean(-1) - math.log(logits.shape[-1])

    return function


def generalized_jsd(op: Op, *tensors: Tensor) -> tuple[Tensor]:
    """The mean over tokens of the Jensen-Shannon divergence, by torch's kl_div as distillation trainers write it."""
    half = len(tensors) // 2
    student, teacher = (F.linear(*each) if op.head else each[0] for each in (tensors[:half], tensors[half:]))
    logp, logq, beta = student.float().log_softmax(-1), teacher.float().log_softmax(-1), op.options["beta"]
    logm = torch.logsumexp(torch.stack([logp + math.log(1 - beta), logq + math.log(beta)]), 0)
    of_teacher, of_student = (F.kl_div(logm, each, reduction="none", log_target=True) for each in (logq, logp))
    return ((beta * of_teacher + (1 - beta) * of_student).sum(-1).mean(),)


def intuitor(op: Op) -> Callable[..., tuple[Tensor, ...]]:
    """Self-certainty is logsumexp - mean of float32 logits, as in Intuitor's trainer (arXiv 2505.19590)."""

    def function(logits: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        logits = logits.float()
        logsumexp = logits.logsumexp(-1)
        chosen = logits.gather(-1, targets[..., None])[..., 0]
        entropy = logsumexp - (logits.softmax(-1) * logits).sum(-1)
        return chosen - logsumexp, entropy, logsumexp - logits.mean(-1) - math.log(logits.shape[-1])

    return function


def plain(op: Op, formulas: Callable[[Op], Callable[..., tuple[Tensor, ...]]], *, compiled: bool = False) -> Function:
    """Apply the formulas to the problem."""
    function = formulas(op)
    if compiled:
        torch.compiler.reset()  # a second shape would be given code for any shape, which is slower
        function = torch.compile(function)
    return lambda problem: function(*problem.arguments(op))


# --- ours


def ours(op: Op, **options: Any) -> Function:
    function = getattr(rlif_kernels, op.kernel)
    if op.outputs == LOSS:
        options |= op.options
        return lambda problem: (function(*problem.arguments(op), **options).loss,)
    options |= {"outputs": op.outputs}
    return lambda problem: tuple(v for v in function(*problem.arguments(op), **options) if v is not None)


def our_statistics_loss(kernel: str) -> Function:
    """Return the loss in plain torch on our log-probabilities: what a trainer gets that swaps these alone."""
    statistics = ours(Op(kernel, "log-probability", ("logprob",)))
    return lambda problem: loss_of(problem, statistics(problem)[0])


CERTAINTY = "self-certainty: target's logit - logprob - mean logit"
HEAD_CERTAINTY = "self-certainty: target's logit - logprob - hidden state x mean row of the weight"
SMOOTHED = "self-certainty: cross-entropy with label_smoothing = 1"
LOSS_IN_TORCH = "the loss from log-probabilities, in plain torch"
LOG_SOFTMAX = "log_softmax of both, in plain torch"


def peer(name: str, package: str, function: Function, composed: str = "", **traits: Any) -> Implementation:
    """Nothing has to be built before it can be called."""
    return Implementation(name, package, lambda: function, composed, **traits)


LIGER, QUACK, FLA = "liger_kernel", "quack-kernels", "flash-linear-attention"
TWO_OF_THREE = "TRL, no self-certainty"
VERL_PPO, VERL_ENTROPY = "verl, FusedLinearForPPO", "verl, linear_cross_entropy"
with_certainty, with_loss = peers.with_certainty, peers.with_loss
PEERS: dict[str, list[Implementation]] = {
    "token_stats": [
        Implementation("Intuitor's formulas", "torch", lambda: plain(OPS["token_stats"], intuitor)),
        peer("TRL", "trl", peers.trl_statistics, CERTAINTY),
        # Its kernel alone, which is what a claim about kernels is to be compared with.
        peer(TWO_OF_THREE, "trl", peers.trl_two_statistics, devices=GPUS, outputs=("logprob", "entropy")),
        peer("verl", "verl", peers.verl_statistics, CERTAINTY),
    ],
    "cross_entropy": [
        peer("Liger", LIGER, peers.liger_cross_entropy, CERTAINTY, devices=GPUS, overwrites_logits=True),
        peer("flash-linear-attention", FLA, peers.fla_cross_entropy, SMOOTHED, devices=GPUS),
        peer("quack", QUACK, peers.quack_cross_entropy, CERTAINTY, devices=GPUS),
    ],
    "grpo_loss": [
        peer("TRL", "trl", peers.trl_loss, LOSS_IN_TORCH),
        peer("Liger", LIGER, peers.liger_loss, devices=GPUS, overwrites_logits=True, padded_logits=True),
    ],
    "linear_token_stats": [
        peer("TRL", "trl", with_certainty(partial(peers.trl_head, entropy=True)), HEAD_CERTAINTY),
        peer(VERL_PPO, "verl", with_certainty(peers.verl_fused_linear), HEAD_CERTAINTY),
        peer(VERL_ENTROPY, "verl", with_certainty(peers.verl_linear_cross_entropy), HEAD_CERTAINTY, devices=GPUS),
        peer("Liger", LIGER, with_certainty(peers.liger_scaled_cross_entropy), HEAD_CERTAINTY),
    ],
    "linear_cross_entropy": [
        peer("TRL", "trl", with_certainty(peers.trl_head), HEAD_CERTAINTY),
        peer("CCE", "cut_cross_entropy", with_certainty(peers.cut_cross_entropy), HEAD_CERTAINTY),
    ],
    "linear_grpo_loss": [
        peer("TRL", "trl", with_loss(peers.trl_head), LOSS_IN_TORCH),
        peer(VERL_PPO, "verl", with_loss(peers.verl_fused_linear), LOSS_IN_TORCH),
        peer(VERL_ENTROPY, "verl", with_loss(peers.verl_linear_cross_entropy), LOSS_IN_TORCH, devices=GPUS),
        peer("CCE", "cut_cross_entropy", with_loss(peers.cut_cross_entropy), LOSS_IN_TORCH),
        peer("Liger", LIGER, peers.liger_head_loss),
    ],
    "divergence": [
        peer("TRL", "trl", peers.trl_divergence),
        peer("Liger", LIGER, peers.liger_divergence, LOG_SOFTMAX, devices=GPUS),
    ],
    "linear_divergence": [
        peer("TRL", "trl", peers.trl_head_divergence),
        peer("Liger", LIGER, peers.liger_head_divergence, devices=GPUS),
    ],
}


def everybody(name: str) -> list[Implementation]:
    """Plain PyTorch, as it stands and compiled; the peers; ours, on both of the CPU's backends and in parts."""
    op = OPS[name]
    found = [
        Implementation("eager", "torch", partial(plain, op, naive)),
        Implementation("torch.compile", "torch", partial(plain, op, naive, compiled=True), compiled=True),
        *PEERS[name],
        Implementation("rlif", "rlif", partial(ours, op)),
        Implementation("rlif, torch backend", "rlif", partial(ours, op, backend="torch")),
    ]
    if "grpo_loss" in op.kernel:
        kernel = op.kernel.replace("grpo_loss", "token_stats")
        found.append(Implementation(f"rlif, {kernel}", "rlif", partial(our_statistics_loss, kernel), LOSS_IN_TORCH))
    if name == "linear_grpo_loss":
        found.append(Implementation("rlif, 64 MiB tiles", "rlif", partial(ours, op, tile_bytes=64 << 20)))
    if op.head:
        found.append(Implementation("rlif, float32 logits", "rlif", partial(ours, op, logits_dtype=torch.float32)))
    return found


IMPLEMENTATIONS = {name: everybody(name) for name in OPS}
