"""Who does the work of each op of `benchmarks.problems`: ours, plain PyTorch, and every peer as its users call it.

An implementation takes a `Problem` and returns the op's outputs, differentiable. It is built when it is asked for, so
that a peer which is not installed, or does not work here, costs nobody else anything: whatever building raises is its
reason to be missing. Where a peer computes less than the op asks for, the rest is composed in the cheapest known way,
and `composed` says what. Written from the peers' sources: TRL 1.16, Liger 0.8.5, verl 0.9.1, CCE 25.1.1, quack 0.6.5,
flash-linear-attention 0.6.0.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.problems import BETA, EPSILON, Problem, dapo_loss, naive_statistics

Function = Callable[[Problem], tuple[Tensor, ...]]
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
    overwrites_logits: bool = False
    """The gradient is written over the logits: they are put back, untimed, before each call."""
    padded_logits: bool = False
    """It takes logits of one position more in each completion, as models return them, and ignores the last."""


# --- arguments, flattened to rows


def rows_of(problem: Problem) -> tuple[Tensor, ...]:
    """Logits (N, V), or hidden states (N, H) and weight (V, H); and targets (N,)."""
    return (problem.leaves[0].flatten(0, 1), *problem.leaves[1:], problem.targets.flatten())


def loss_of(problem: Problem, logprob: Tensor) -> tuple[Tensor]:
    """The loss in plain torch, of log-probabilities of any shape."""
    logprob = logprob.view_as(problem.targets)
    return (dapo_loss(logprob, problem.advantages, problem.old_logprob, problem.ref_logprob),)


# --- self-certainty of those who have none: logsumexp is the target's logit minus its log-probability


def certainty_of_logits(logits: Tensor, targets: Tensor, logprob: Tensor) -> Tensor:
    """KL(Uniform || p) with one read more, for the mean."""
    chosen = logits.gather(-1, targets[:, None])[:, 0].float()
    return chosen - logprob - logits.mean(-1, dtype=torch.float32) - math.log(logits.shape[-1])


def certainty_of_head(hidden: Tensor, weight: Tensor, targets: Tensor, logprob: Tensor) -> Tensor:
    """The same without logits: their mean is the product with the mean row of the weight."""
    chosen = (hidden * F.embedding(targets, weight)).sum(-1, dtype=torch.float32)
    mean = hidden.float() @ weight.mean(0, dtype=torch.float32)
    return chosen - logprob - mean - math.log(len(weight))


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
        Implementation("torch.compile", "torch", partial(wrap, function, compiled=True)),
    ]


# --- peers on logits


def trl_statistics(problem: Problem) -> tuple[Tensor, ...]:
    """What GRPOTrainer calls on logits: a Triton kernel on GPUs, torch elsewhere."""
    function = importlib.import_module("trl.trainer.utils").selective_log_softmax_and_entropy
    logits, targets = rows_of(problem)
    logprob, entropy = function(logits, targets)
    return logprob, entropy, certainty_of_logits(logits, targets, logprob.float())


def verl_statistics(problem: Problem) -> tuple[Tensor, ...]:
    module = importlib.import_module("verl.utils.torch_functional")
    logits, targets = rows_of(problem)
    logprob = module.logprobs_from_logits(logits, targets, inplace_backward=False)
    return logprob, module.entropy_from_logits(logits), certainty_of_logits(logits, targets, logprob.float())


def liger_cross_entropy(problem: Problem) -> tuple[Tensor, ...]:
    function = importlib.import_module("liger_kernel.ops").LigerCrossEntropyFunction
    logits, targets = rows_of(problem)
    # What needs the logits comes first: the gradient takes their place.
    chosen = logits.gather(-1, targets[:, None])[:, 0].float()
    mean = logits.mean(-1, dtype=torch.float32)
    logprob = -function.apply(logits, targets, None, -100, 0.0, 0.0, "none")[0].float()
    return logprob, chosen - logprob - mean - math.log(logits.shape[-1])


def fla_cross_entropy(problem: Problem) -> tuple[Tensor, ...]:
    """Cross-entropy, and self-certainty + log V as cross-entropy with nothing but smoothing."""
    function = importlib.import_module("fla.modules.fused_cross_entropy").cross_entropy_loss
    logits, targets = rows_of(problem)
    certainty = function(logits, targets, label_smoothing=1.0)[0] - math.log(logits.shape[-1])
    return -function(logits, targets)[0], certainty


def quack_cross_entropy(problem: Problem) -> tuple[Tensor, ...]:
    function = importlib.import_module("quack.cross_entropy").cross_entropy
    logits, targets = rows_of(problem)
    logprob = -function(logits, targets, reduction="none").float()
    return logprob, certainty_of_logits(logits, targets, logprob)


def trl_loss(problem: Problem) -> tuple[Tensor, ...]:
    function = importlib.import_module("trl.trainer.utils").selective_log_softmax_and_entropy
    # GRPOTrainer logs the entropy, and differentiates it only when asked to.
    return loss_of(problem, function(*rows_of(problem), entropy_requires_grad=False)[0].float())


def liger_loss() -> Function:
    """Liger's GRPO loss on logits, (B, T + 1, V), with the gradient in their place."""
    function = importlib.import_module("liger_kernel.transformers.grpo_loss").triton_grpo_loss

    def loss(problem: Problem) -> tuple[Tensor, ...]:
        value, _ = function(
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
        return (value,)

    return loss


# --- peers on the head: (N, H), (V, H), (N,) to log-probability and, where they have it, entropy


def trl_head(entropy: bool) -> Callable[..., tuple[Tensor, ...]]:
    """TRL's chunked head as its GRPOTrainer calls it, in tiles of 32768 columns."""
    chunked = importlib.import_module("trl.kernels").ChunkedLogProbFunction
    outputs = ("entropy",) if entropy else ()
    return lambda hidden, weight, targets: chunked.apply(hidden, weight, None, targets, 1.0, 32768, None, 1.0, outputs)[
        : 1 + len(outputs)
    ]


def verl_fused_linear() -> Callable[..., tuple[Tensor, ...]]:
    """verl's FusedLinearForPPO. Its file needs torch alone; its package needs Ray and an older transformers."""
    return alone("verl", "utils/experimental/torch_functional.py").FusedLinearForPPO()


def verl_linear_cross_entropy() -> Callable[..., tuple[Tensor, ...]]:
    function = importlib.import_module("verl.utils.kernel.linear_cross_entropy").linear_cross_entropy
    return lambda hidden, weight, targets: function(hidden, weight, targets, 1.0, "none")


def liger_scaled_cross_entropy() -> Callable[..., tuple[Tensor, ...]]:
    function = importlib.import_module("liger_kernel.ops").LigerFusedLinearScaledCrossEntropyFunction

    def head(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        loss, entropy = function.apply(hidden, weight, targets, 1.0, -100, 1, True)
        return -loss, entropy

    return head


def cut_cross_entropy() -> Callable[..., tuple[Tensor, ...]]:
    """CCE with its defaults, which leave out gradients below the rounding of bfloat16; compiled torch on a CPU."""
    function = importlib.import_module("cut_cross_entropy").linear_cross_entropy

    def head(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        implementation = "cce" if hidden.is_cuda else "torch_compile"
        return (-function(hidden, weight, targets, reduction="none", impl=implementation),)

    return head


def with_certainty(head: Callable[[], Callable[..., tuple[Tensor, ...]]]) -> Function:
    """A head's statistics, and self-certainty composed of them."""
    function = head()

    def statistics(problem: Problem) -> tuple[Tensor, ...]:
        hidden, weight, targets = rows_of(problem)
        logprob, *entropy = function(hidden, weight, targets)
        return logprob, *entropy, certainty_of_head(hidden, weight, targets, logprob.float())

    return statistics


def with_loss(head: Callable[[], Callable[..., tuple[Tensor, ...]]]) -> Function:
    function = head()
    return lambda problem: loss_of(problem, function(*rows_of(problem))[0].float())


def liger_head_loss() -> Function:
    """Liger's chunked GRPO loss with its defaults: one completion at a time, the arithmetic of the loss compiled."""
    module = importlib.import_module("liger_kernel.chunked_loss")
    criterion = module.LigerFusedLinearGRPOLoss(
        beta=BETA, epsilon_low=EPSILON, epsilon_high=EPSILON, loss_type="dapo", use_ref_model=True
    )

    def loss(problem: Problem) -> tuple[Tensor, ...]:
        value, _ = criterion(
            *problem.leaves,
            problem.targets,
            torch.ones_like(problem.targets),
            problem.advantages,
            ref_per_token_logps=problem.ref_logprob,
            old_per_token_logps=problem.old_logprob,
        )
        return (value,)

    return loss


def alone(package: str, file: str) -> ModuleType:
    """One file of a package, without the package's own imports. Raises ImportError if it is not installed."""
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


def installed(module: str, function: Function) -> Callable[[], Function]:
    """The function, once the module that it calls into has been imported."""

    def build() -> Function:
        importlib.import_module(module)
        return function

    return build


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
        Implementation("TRL", "trl", installed(_TRL_UTILS, trl_statistics), CERTAINTY),
        Implementation("verl", "verl", installed("verl.utils.torch_functional", verl_statistics), CERTAINTY),
        *our_three("token_stats", THREE),
    ],
    "cross_entropy": [
        *plain(eager_without_entropy),
        Implementation(
            "Liger",
            "liger_kernel",
            installed("liger_kernel.ops", liger_cross_entropy),
            CERTAINTY,
            GPUS,
            overwrites_logits=True,
        ),
        Implementation(
            "flash-linear-attention",
            "flash-linear-attention",
            installed("fla.modules.fused_cross_entropy", fla_cross_entropy),
            SMOOTHED,
            GPUS,
        ),
        Implementation(
            "quack", "quack-kernels", installed("quack.cross_entropy", quack_cross_entropy), CERTAINTY, GPUS
        ),
        *our_three("token_stats", TWO),
    ],
    "grpo_loss": [
        *plain(eager_loss, of_loss),
        Implementation("TRL", "trl", installed(_TRL_UTILS, trl_loss), LOSS_IN_TORCH),
        Implementation("Liger", "liger_kernel", liger_loss, devices=GPUS, overwrites_logits=True, padded_logits=True),
        *our_losses("grpo_loss", "token_stats"),
    ],
    "linear_token_stats": [
        *plain(through_head(eager_statistics)),
        Implementation("TRL", "trl", partial(with_certainty, partial(trl_head, True)), HEAD_CERTAINTY),
        Implementation("verl, FusedLinearForPPO", "verl", partial(with_certainty, verl_fused_linear), HEAD_CERTAINTY),
        Implementation(
            "verl, linear_cross_entropy",
            "verl",
            partial(with_certainty, verl_linear_cross_entropy),
            HEAD_CERTAINTY,
            GPUS,
        ),
        Implementation("Liger", "liger_kernel", partial(with_certainty, liger_scaled_cross_entropy), HEAD_CERTAINTY),
        *our_three("linear_token_stats", THREE),
    ],
    "linear_cross_entropy": [
        *plain(through_head(eager_without_entropy)),
        Implementation("TRL", "trl", partial(with_certainty, partial(trl_head, False)), HEAD_CERTAINTY),
        Implementation("CCE", "cut_cross_entropy", partial(with_certainty, cut_cross_entropy), HEAD_CERTAINTY),
        *our_three("linear_token_stats", TWO),
    ],
    "linear_grpo_loss": [
        *plain(eager_head_loss, of_loss),
        Implementation("TRL", "trl", partial(with_loss, partial(trl_head, True)), LOSS_IN_TORCH),
        Implementation("verl, FusedLinearForPPO", "verl", partial(with_loss, verl_fused_linear), LOSS_IN_TORCH),
        Implementation(
            "verl, linear_cross_entropy", "verl", partial(with_loss, verl_linear_cross_entropy), LOSS_IN_TORCH, GPUS
        ),
        Implementation("CCE", "cut_cross_entropy", partial(with_loss, cut_cross_entropy), LOSS_IN_TORCH),
        Implementation("Liger", "liger_kernel", liger_head_loss),
        *our_losses("linear_grpo_loss", "linear_token_stats"),
    ],
}
