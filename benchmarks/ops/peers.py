"""The peers: each package's functions as its users call them, made to fit a `OpProblem`.

Every one returns an op's outputs, differentiable; what a package does not compute is composed here in the cheapest
known way. What its first call raises is the reason why it takes no part. Written from the sources of TRL 1.16,
Liger 0.8.5, verl 0.9.1, CCE 25.1.1, quack 0.6.5 and flash-linear-attention 0.6.0.
"""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from benchmarks.ops.problems import BETA, EPSILON, JSD, Function, OpProblem, dapo_loss

# --- arguments, flattened to rows


def rows_of(problem: OpProblem) -> tuple[Tensor, ...]:
    """Logits (N, V), or hidden states (N, H) and weight (V, H); and targets (N,)."""
    return (problem.leaves[0].flatten(0, 1), *problem.leaves[1:], problem.targets.flatten())


def loss_of(problem: OpProblem, logprob: Tensor) -> tuple[Tensor]:
    """Return the loss in plain torch, of log-probabilities of any shape."""
    logprob = logprob.view_as(problem.targets)
    return (dapo_loss(logprob, problem.advantages, problem.old_logprob, problem.ref_logprob),)


# --- self-certainty of those who have none: logsumexp is the target's logit minus its log-probability


class TargetAboveMean(torch.autograd.Function):
    """The target's logit minus the mean of all, (N,) float32, of (N, V) logits; one tensor of theirs in the backward.

    Autograd would make one for the mean, one for the target, and one for the sum of both.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        ctx.save_for_backward(targets)
        ctx.shape, ctx.dtype = logits.shape, logits.dtype
        return logits.gather(-1, targets[:, None])[:, 0].float() - logits.mean(-1, dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (targets,) = ctx.saved_tensors
        columns = ctx.shape[-1]
        gradient = (-upstream / columns).to(ctx.dtype)[:, None].expand(ctx.shape).contiguous()
        at_target = (upstream * (1 - 1 / columns)).to(ctx.dtype)
        return gradient.scatter_(1, targets[:, None], at_target[:, None]), None


class TargetAboveMeanOfHead(torch.autograd.Function):
    """The same of (N, H) hidden states and a (V, H) weight, without logits: one tensor of the weight's size."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        mean_row = weight.mean(0, dtype=torch.float32)
        ctx.save_for_backward(hidden, weight, targets, mean_row)
        chosen = (hidden.float() * weight[targets].float()).sum(-1)
        return chosen - hidden.float() @ mean_row

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, None]:
        hidden, weight, targets, mean_row = ctx.saved_tensors
        weighted = upstream[:, None] * hidden.float()
        d_hidden = upstream[:, None] * (weight[targets].float() - mean_row)
        d_weight = (-weighted.sum(0) / len(weight)).to(weight.dtype).expand(weight.shape).contiguous()
        return d_hidden.to(hidden.dtype), d_weight.index_add_(0, targets, weighted.to(weight.dtype)), None


def certainty_of_logits(logits: Tensor, targets: Tensor, logprob: Tensor) -> Tensor:
    """KL(Uniform || p) with one read more, for the mean."""
    above: Tensor = TargetAboveMean.apply(logits, targets)
    return above - logprob - math.log(logits.shape[-1])


def certainty_of_head(hidden: Tensor, weight: Tensor, targets: Tensor, logprob: Tensor) -> Tensor:
    """Return the same without logits: their mean is the product with the mean row of the weight."""
    above: Tensor = TargetAboveMeanOfHead.apply(hidden, weight, targets)
    return above - logprob - math.log(len(weight))


# --- peers on logits


def trl_two_statistics(problem: OpProblem) -> tuple[Tensor, ...]:
    """Return log-probability and entropy by what GRPOTrainer calls on logits: a Triton kernel on GPUs, else torch."""
    function = import_module("trl.trainer.utils").selective_log_softmax_and_entropy
    # (B, T, V), as its trainers pass them: without Triton it loops over the first dimension in Python.
    return tuple(value.flatten() for value in function(problem.leaves[0], problem.targets))


def trl_statistics(problem: OpProblem) -> tuple[Tensor, ...]:
    logprob, entropy = trl_two_statistics(problem)
    logits, targets = rows_of(problem)
    return logprob, entropy, certainty_of_logits(logits, targets, logprob.float())


def verl_statistics(problem: OpProblem) -> tuple[Tensor, ...]:
    module = import_module("verl.utils.torch_functional")
    logits, targets = rows_of(problem)
    logprob = module.logprobs_from_logits(logits, targets, inplace_backward=False)
    return logprob, module.entropy_from_logits(logits), certainty_of_logits(logits, targets, logprob.float())


def liger_cross_entropy(problem: OpProblem) -> tuple[Tensor, ...]:
    function = import_module("liger_kernel.ops").LigerCrossEntropyFunction
    logits, targets = rows_of(problem)
    # What needs the logits comes first: the gradient takes their place.
    chosen = logits.gather(-1, targets[:, None])[:, 0].float()
    mean = logits.mean(-1, dtype=torch.float32)
    logprob = -function.apply(logits, targets, None, -100, 0.0, 0.0, "none")[0].float()
    return logprob, chosen - logprob - mean - math.log(logits.shape[-1])


def fla_cross_entropy(problem: OpProblem) -> tuple[Tensor, ...]:
    """Cross-entropy, and self-certainty + log V as cross-entropy with nothing but smoothing."""
    function = import_module("fla.modules.fused_cross_entropy").cross_entropy_loss
    logits, targets = rows_of(problem)
    certainty = function(logits, targets, label_smoothing=1.0)[0] - math.log(logits.shape[-1])
    return -function(logits, targets)[0], certainty


def quack_cross_entropy(problem: OpProblem) -> tuple[Tensor, ...]:
    logits, targets = rows_of(problem)
    logprob = -import_module("quack.cross_entropy").cross_entropy(logits, targets, reduction="none").float()
    return logprob, certainty_of_logits(logits, targets, logprob)


def trl_loss(problem: OpProblem) -> tuple[Tensor, ...]:
    """Return the loss of TRL's log-probabilities alone: the entropy that its trainer logs is not part of this op."""
    function = import_module("trl.trainer.utils").selective_log_softmax
    return loss_of(problem, function(problem.leaves[0], problem.targets).float())


def liger_loss(problem: OpProblem) -> tuple[Tensor, ...]:
    """Liger's GRPO loss on logits, (B, T + 1, V), with the gradient in their place."""
    loss, _ = import_module("liger_kernel.transformers.grpo_loss").triton_grpo_loss(
        problem.leaves[0],
        problem.old_logprob,
        problem.ref_logprob,
        problem.targets,
        problem.advantages,
        completion_mask=torch.ones_like(problem.targets),
        temperature=1.0,
        beta=BETA,
        eps_low=EPSILON,
        eps_high=EPSILON,
        inplace=True,
        loss_type="dapo",
        reduce=True,
    )
    return (loss,)


# --- peers on the head: (N, H), (V, H), (N,) to log-probability and, where they have it, entropy


def trl_head(hidden: Tensor, weight: Tensor, targets: Tensor, *, entropy: bool = False) -> tuple[Tensor, ...]:
    """TRL's chunked head as its GRPOTrainer calls it, in tiles of 32768 columns."""
    outputs = ("entropy",) if entropy else ()
    function = import_module("trl.kernels").ChunkedLogProbFunction
    found: tuple[Tensor, ...] = function.apply(hidden, weight, None, targets, 1.0, 32768, None, 1.0, outputs)
    return found[: 1 + len(outputs)]


def verl_fused_linear(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    """verl's FusedLinearForPPO. Its file needs torch alone; its package needs Ray and an older transformers."""
    found: tuple[Tensor, ...] = alone("verl", "utils/experimental/torch_functional.py").FusedLinearForPPO()(
        hidden, weight, targets
    )
    return found


def verl_linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    function = import_module("verl.utils.kernel.linear_cross_entropy").linear_cross_entropy
    found: tuple[Tensor, ...] = function(hidden, weight, targets, 1.0, "none")
    return found


def liger_scaled_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    function = import_module("liger_kernel.ops").LigerFusedLinearScaledCrossEntropyFunction
    loss, entropy = function.apply(hidden, weight, targets, 1.0, -100, 1, True)
    return -loss, entropy


def cut_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    """CCE with its defaults, which leave out gradients below the rounding of bfloat16; compiled torch on a CPU."""
    function = import_module("cut_cross_entropy").linear_cross_entropy
    implementation = "cce" if hidden.is_cuda else "torch_compile"
    return (-function(hidden, weight, targets, reduction="none", impl=implementation),)


def with_certainty(head: Callable[..., tuple[Tensor, ...]]) -> Function:
    """Return a head's statistics, and self-certainty composed of them."""

    def statistics(problem: OpProblem) -> tuple[Tensor, ...]:
        hidden, weight, targets = rows_of(problem)
        logprob, *entropy = head(hidden, weight, targets)
        return logprob, *entropy, certainty_of_head(hidden, weight, targets, logprob.float())

    return statistics


def with_loss(head: Callable[..., tuple[Tensor, ...]]) -> Function:
    """Return the loss, in plain torch, of a head's log-probabilities."""
    return lambda problem: loss_of(problem, head(*rows_of(problem))[0].float())


def liger_head_loss(problem: OpProblem) -> tuple[Tensor, ...]:
    """Liger's chunked GRPO loss with its defaults: one completion at a time, the arithmetic of the loss compiled."""
    criterion = import_module("liger_kernel.chunked_loss").LigerFusedLinearGRPOLoss(
        beta=BETA, epsilon_low=EPSILON, epsilon_high=EPSILON, loss_type="dapo", use_ref_model=True
    )
    loss, _ = criterion(
        *problem.leaves,
        problem.targets,
        torch.ones_like(problem.targets),
        problem.advantages,
        ref_per_token_logps=problem.ref_logprob,
        old_per_token_logps=problem.old_logprob,
    )
    return (loss,)


@functools.cache
def alone(package: str, file: str) -> ModuleType:
    """Load one file of a package, without the package's own imports. Raises ImportError if it is not installed."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)
    path = Path(found.submodule_search_locations[0]) / file
    spec = importlib.util.spec_from_file_location(f"_{package}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- divergences: the mean over tokens


def trl_divergence(problem: OpProblem) -> tuple[Tensor]:
    """GKDTrainer's loss; without labels it would divide by completions, not by tokens."""
    trainer = import_module("trl.experimental.gkd.gkd_trainer").GKDTrainer
    (student,), (teacher,) = problem.leaves, problem.teacher
    count = problem.targets.numel()
    return (trainer.generalized_jsd_loss(student, teacher, beta=JSD["beta"], num_items_in_batch=count),)


def trl_head_divergence(problem: OpProblem) -> tuple[Tensor]:
    """What its distillation trainers call on hidden states and heads."""
    function = import_module("trl.kernels.chunked_divergence").ChunkedDivergenceFunction
    (hidden, weight), (teacher_hidden, teacher_weight) = problem.leaves, problem.teacher
    values, _ = function.apply(
        hidden.flatten(0, 1), weight, None, teacher_hidden.flatten(0, 1), teacher_weight, None, JSD["beta"]
    )
    return (values.mean(),)


def liger_divergence(problem: OpProblem) -> tuple[Tensor]:
    """Its kernel takes log-probabilities."""
    function = import_module("liger_kernel.transformers.jsd").LigerJSD(beta=JSD["beta"])
    student, teacher = (x.flatten(0, 1).float().log_softmax(-1) for x in (problem.leaves[0], problem.teacher[0]))
    return (function(student, teacher),)


def liger_head_divergence(problem: OpProblem) -> tuple[Tensor]:
    function = import_module("liger_kernel.transformers.fused_linear_jsd").LigerFusedLinearJSD(jsd_beta=JSD["beta"])
    (hidden, weight), (teacher_hidden, teacher_weight) = problem.leaves, problem.teacher
    return (function(hidden.flatten(0, 1), weight, teacher_hidden.flatten(0, 1), teacher_weight, None),)
