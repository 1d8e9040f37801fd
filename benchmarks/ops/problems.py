"""What the ops are timed on: random inputs, and the results in float64 that everybody is compared with.

A `OpProblem` is either logits or a head (hidden states and weight), and holds whatever any of the ops takes besides.
Every implementation of an op computes the same outputs of the same tensors, and the same scalar is made of them for
the backward pass, so that gradients can be compared as well.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rlif_kernels import TokenStats, policy_loss, reference

EPSILON, BETA = 0.2, 0.04
TEACHER_STD = 1.0  # of what the teacher has beside the student, before the head too
LOGITS_STD = 3.0
STATISTICS = ("logprob", "entropy", "self_certainty")
LOSS = ("loss",)


@dataclass(frozen=True)
class Op:
    """A piece of work, the same for everybody who does it."""

    kernel: str
    """The function of `rlif_kernels`, and of `rlif_kernels.reference`, that does it."""
    title: str
    outputs: tuple[str, ...]
    """The results: `LOSS`, or some of `STATISTICS`."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What its kernel is told beside tensors and outputs."""

    @property
    def head(self) -> bool:
        """Whether it starts from hidden states and a weight rather than from logits."""
        return self.kernel.startswith("linear")

    @property
    def paired(self) -> bool:
        """Whether it compares a student with a teacher."""
        return self.kernel.endswith("divergence")


TWO = ("logprob", "self_certainty")
POLICY_LOSS = {"epsilon_low": EPSILON, "beta": BETA}
JSD = {"kind": "jsd", "beta": 0.5}
# Cross-entropy kernels have no entropy: they compete where none is asked for, which is what GRPO with self-certainty
# as its reward needs (arXiv 2505.19590).
OPS = {
    "token_stats": Op("token_stats", "log-probability, entropy, self-certainty of logits", STATISTICS),
    "cross_entropy": Op("token_stats", "log-probability, self-certainty of logits", TWO),
    "grpo_loss": Op("grpo_loss", "GRPO loss of logits", LOSS, POLICY_LOSS),
    "linear_token_stats": Op(
        "linear_token_stats", "log-probability, entropy, self-certainty through the head", STATISTICS
    ),
    "linear_cross_entropy": Op("linear_token_stats", "log-probability, self-certainty through the head", TWO),
    "linear_grpo_loss": Op("linear_grpo_loss", "GRPO loss through the head", LOSS, POLICY_LOSS),
    "divergence": Op("divergence", "Jensen-Shannon divergence of two tensors of logits", LOSS, JSD),
    "linear_divergence": Op("linear_divergence", "Jensen-Shannon divergence through two heads", LOSS, JSD),
}


@dataclass(frozen=True)
class Shape:
    """B completions of T tokens over V columns; H is 0 where logits are given."""

    batch: int
    length: int
    vocab_size: int
    hidden_size: int
    dtype: str

    @property
    def rows(self) -> int:
        return self.batch * self.length

    @property
    def logits_bytes(self) -> int:
        """Of all logits, in the problem's dtype, whether or not they are ever in memory."""
        return self.rows * self.vocab_size * self.torch_dtype.itemsize

    @property
    def torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)

    def __str__(self) -> str:
        hidden = f", H = {self.hidden_size}" if self.hidden_size else ""
        return f"{self.rows} x {self.vocab_size}{hidden}, {self.dtype}"


@dataclass(frozen=True)
class OpProblem:
    """The tensors of one shape."""

    leaves: tuple[Tensor, ...]
    """(logits (B, T, V),), or (hidden (B, T, H), weight (V, H)); they require a gradient."""
    targets: Tensor
    """(B, T) int64."""
    advantages: Tensor
    """(B,) float32."""
    old_logprob: Tensor
    """(B, T) float32; two thirds of the ratios lie outside the clip range."""
    ref_logprob: Tensor
    """(B, T) float32."""
    upstream: Tensor
    """(3, B, T) float32: what the statistics are weighted by, in the scalar whose gradient is taken."""

    @property
    def gradient_bytes(self) -> int:
        return sum(leaf.nbytes for leaf in self.leaves)

    @functools.cached_property
    def teacher(self) -> tuple[Tensor, ...]:
        """What the student is compared with: the leaves' like, which differs by noise. Made when it is asked for."""
        generator = torch.Generator(self.leaves[0].device).manual_seed(1)
        std = TEACHER_STD
        if len(self.leaves) > 1:
            std /= math.sqrt(self.leaves[0].shape[-1])
        last = (
            torch.empty_like(self.leaves[-1].detach())
            .normal_(std=std, generator=generator)
            .add_(self.leaves[-1].detach())
        )
        return (*(leaf.detach().clone() for leaf in self.leaves[:-1]), last)

    def arguments(self, op: Op) -> tuple[Tensor, ...]:
        """The tensors that the op's kernel takes, in its order."""
        if op.paired:
            return (*self.leaves, *self.teacher)
        rest = (self.advantages, self.old_logprob, self.ref_logprob) if op.outputs == LOSS else ()
        return (*self.leaves, self.targets, *rest)

    def padded(self) -> OpProblem:
        """Return the same with logits (B, T + 1, V), the last position of each completion being nobody's business."""
        (logits,) = self.leaves
        return dataclasses.replace(self, leaves=(F.pad(logits.detach(), (0, 0, 0, 1)).requires_grad_(),))

    def clear_gradients(self) -> None:
        for leaf in self.leaves:
            leaf.grad = None

    def objective(self, op: Op, outputs: tuple[Tensor, ...]) -> Tensor:
        """Return the scalar to differentiate: the loss itself, or a weighted sum of the statistics."""
        if op.outputs == LOSS:
            return outputs[0]
        weighted = [
            (self.upstream[STATISTICS.index(name)].to(value.dtype) * value.view_as(self.targets)).sum()
            for name, value in zip(op.outputs, outputs, strict=True)
        ]
        return torch.stack(weighted).sum()


def make_problem(shape: Shape, device: str = "cpu") -> OpProblem:
    """Random tensors, the same for the same shape; the logits' standard deviation is `LOGITS_STD`.

    No temporary is larger than a few rows of logits: it would raise the peak that memory is measured from.
    """
    generator = torch.Generator(device).manual_seed(0)

    def normal(*size: int, std: float = 1.0, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(size, dtype=dtype, device=device).normal_(std=std, generator=generator)

    size = (shape.batch, shape.length)
    if shape.hidden_size:
        hidden = normal(*size, shape.hidden_size, dtype=shape.torch_dtype)
        std = LOGITS_STD / math.sqrt(shape.hidden_size)
        weight = normal(shape.vocab_size, shape.hidden_size, std=std, dtype=shape.torch_dtype)
        leaves: tuple[Tensor, ...] = (hidden, weight)
    else:
        leaves = (normal(*size, shape.vocab_size, std=LOGITS_STD, dtype=shape.torch_dtype),)
    targets = torch.randint(shape.vocab_size, size, device=device, generator=generator)
    logprob = torch.empty(size, device=device)
    for rows, chosen, out in zip(
        leaves[0].flatten(0, 1).split(16), targets.flatten().split(16), logprob.flatten().split(16), strict=True
    ):
        logits = rows @ leaves[1].T if shape.hidden_size else rows
        out.copy_(logits.float().log_softmax(-1).gather(-1, chosen[:, None])[:, 0])
    return OpProblem(
        leaves=tuple(leaf.requires_grad_() for leaf in leaves),
        targets=targets,
        advantages=normal(shape.batch),
        # Clipped on either side or not at all, never so near the bound that rounding decides which.
        old_logprob=logprob + 0.4 * torch.randint(-1, 2, size, device=device, generator=generator),
        ref_logprob=logprob + normal(*size, std=0.3),
        upstream=normal(3, *size),
    )


def dapo_loss(logprob: Tensor, advantages: Tensor, old_logprob: Tensor, ref_logprob: Tensor) -> Tensor:
    """Return the loss of (B, T) log-probabilities in plain torch: arXiv 2503.14476, clipped, with a KL penalty."""
    ratio = (logprob - old_logprob).exp()
    surrogate = torch.minimum(ratio * advantages[:, None], ratio.clamp(1 - EPSILON, 1 + EPSILON) * advantages[:, None])
    log_ratio = ref_logprob - logprob
    return (BETA * (log_ratio.exp() - log_ratio - 1) - surrogate).mean()


Function = Callable[[OpProblem], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Truth:
    """The results of an op by `rlif_kernels.reference`, in float64, on the very tensors of a problem."""

    outputs: tuple[Tensor, ...]
    gradients: tuple[Tensor, ...]
    rows: slice
    """The rows of logits whose gradient it is, each of which depends on its own row alone; of a head, all."""


# The implementation that the others are compared with.
BASELINE = "eager"
# Largest difference that a right implementation may show, of outputs to max(1, |value|) and of gradients to their norm.
# float32: sums over V of some 1e5 terms in any order. bfloat16 has 8 bits, and some add up in it.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.02}
CHECKED_ROWS = 64


def _statistics(logits: Tensor, targets: Tensor) -> Tensor:
    """`STATISTICS` of (N, V) logits, (3, N)."""
    stats = reference.token_stats(logits, targets)
    return torch.stack([value for value in stats if value is not None])


def exact(op: Op, problem: OpProblem, rows: int = 64) -> Truth:
    """Outputs and gradients in float64, in blocks of that many rows; of logits, gradients of the first rows."""
    if op.paired:
        return _exact_divergence(op, problem, rows)
    leaves = tuple(leaf.detach() for leaf in problem.leaves)
    if op.head:
        leaves = tuple(leaf.double().requires_grad_() for leaf in leaves)

    def statistics(start: int) -> Tensor:
        block = slice(start, start + rows)
        part = leaves[0].flatten(0, 1)[block].double()
        logits = part @ leaves[1].T if op.head else part
        return _statistics(logits, problem.targets.flatten()[block])

    starts = range(0, problem.targets.numel(), rows)
    with torch.no_grad():
        values = torch.cat([statistics(start) for start in starts], dim=1).view(3, *problem.targets.shape)
    values.requires_grad_()
    outputs: tuple[Tensor, ...] = tuple(values[STATISTICS.index(name)] for name in op.outputs if name in STATISTICS)
    if op.outputs == LOSS:
        rest = (problem.advantages, problem.old_logprob, problem.ref_logprob)
        mask = torch.ones_like(problem.targets, dtype=torch.bool)
        outputs = (policy_loss(TokenStats(*values), *rest, mask=mask, epsilon_low=EPSILON, beta=BETA).loss,)
    (upstream,) = torch.autograd.grad(problem.objective(op, outputs), values)
    upstream = upstream.flatten(1)
    detached = tuple(output.detach() for output in outputs)
    if op.head:
        for start in starts:
            statistics(start).backward(upstream[:, start : start + rows])
        gradients = tuple(leaf.grad for leaf in leaves if leaf.grad is not None)
        return Truth(detached, gradients, slice(None))
    # Of the first completion, which is where it is in padded logits as well.
    checked = slice(min(CHECKED_ROWS, problem.targets.shape[1]))
    first = leaves[0][0, checked].double().requires_grad_()
    _statistics(first, problem.targets[0, checked]).backward(upstream[:, checked])
    assert first.grad is not None
    return Truth(detached, (first.grad,), checked)


def _exact_divergence(op: Op, problem: OpProblem, rows: int) -> Truth:
    """`exact` of a mean over all tokens of what each pair of rows comes to."""
    leaves = tuple(leaf.detach() for leaf in problem.leaves)
    if op.head:
        leaves = tuple(leaf.double().requires_grad_() for leaf in leaves)
    count = problem.targets.numel()

    def loss_of(student: Tensor, block: slice) -> Tensor:
        teacher = problem.teacher[0].flatten(0, 1)[block].double()
        if op.head:
            student, teacher = student @ leaves[1].T, teacher @ problem.teacher[1].double().T
        weight = torch.full(student.shape[:-1], 1 / count, dtype=torch.float64, device=student.device)
        return reference.divergence(student, teacher, token_weight=weight, **op.options).loss

    total = torch.zeros((), dtype=torch.float64, device=leaves[0].device)
    for start in range(0, count, rows):
        block = slice(start, start + rows)
        loss = loss_of(leaves[0].flatten(0, 1)[block].double(), block)
        total += loss.detach()
        if op.head:
            loss.backward()
    if op.head:
        return Truth((total,), tuple(leaf.grad for leaf in leaves if leaf.grad is not None), slice(None))
    checked = slice(min(CHECKED_ROWS, problem.targets.shape[1]))
    first = leaves[0].flatten(0, 1)[checked].double().requires_grad_()
    loss_of(first, checked).backward()
    assert first.grad is not None
    return Truth((total,), (first.grad,), checked)


@dataclass(frozen=True)
class Call:
    """An op of a problem, done by somebody."""

    op: Op
    problem: OpProblem
    function: Function
    restore: Callable[[], object] = lambda: None
    """Puts back the logits that the last call has overwritten."""

    def forward(self) -> None:
        with torch.no_grad():
            self.function(self.problem)

    def forward_backward(self) -> tuple[Tensor, ...]:
        """Adds to the gradients in the leaves' `.grad`; returns the outputs."""
        outputs = self.function(self.problem)
        self.problem.objective(self.op, outputs).backward()
        return outputs

    def results(self) -> Truth:
        """Its own results, to compare others with."""
        self.problem.clear_gradients()
        outputs = tuple(output.detach() for output in self.forward_backward())
        gradients = tuple(leaf.grad for leaf in self.problem.leaves if leaf.grad is not None)
        self.problem.clear_gradients()
        return Truth(outputs, gradients, slice(None))

    def errors(self, truth: Truth) -> tuple[float, float]:
        """Of outputs and of gradients in one call, which warms up as well."""
        try:
            return output_error(self.forward_backward(), truth), gradient_error(self.problem, truth)
        finally:
            self.problem.clear_gradients()
            self.restore()


def output_error(outputs: tuple[Tensor, ...], truth: Truth) -> float:
    """The largest difference from float64, of each value to max(1, |value|); infinite where one is not a number."""
    largest = 0.0
    for value, expected in zip(outputs, truth.outputs, strict=True):
        difference = (value.detach().double().view_as(expected) - expected).abs() / expected.abs().clamp(min=1)
        largest = max(largest, difference.nan_to_num(math.inf).max().item())
    return largest


def gradient_error(problem: OpProblem, truth: Truth) -> float:
    """The largest difference of a gradient in `.grad` from float64, as norms; infinite where there is none."""
    largest = 0.0
    for leaf, expected in zip(problem.leaves, truth.gradients, strict=True):
        if leaf.grad is None:
            return math.inf
        gradient = leaf.grad.flatten(0, 1)[truth.rows] if leaf.dim() == 3 else leaf.grad
        difference = (gradient.double().view_as(expected) - expected).norm() / expected.norm()
        largest = max(largest, difference.nan_to_num(math.inf).item())
    return largest
