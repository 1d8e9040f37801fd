"""The contract of the kernels as a grid of cases for a device: each compared with float64, with outputs poisoned.

The bounds are the contract's (`docs/numerics.md`), and the definition is `rlif_kernels.reference` in float64 of the
same, already rounded, logits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rlif_kernels import (
    GRPOLoss,
    TokenStats,
    grpo_loss,
    linear_grpo_loss,
    linear_token_stats,
    reference,
    token_stats,
)
from rlif_kernels.functional import DIFFERENTIABLE
from rlif_kernels.stats import DEFAULT_OUTPUTS, FIELDS, IGNORE_INDEX

# float32 results against float64: times max(1, |value|), and times the largest upstream gradient.
VALUE_TOLERANCE, GRADIENT_TOLERANCE = 4e-6, 2e-6
# The fused loss: relative to the largest value of its kind.
LOSS_TOLERANCE = 1e-5
# A gradient is rounded where it is stored: half a unit in the last place on a device, a whole one in the interpreter.
ROUNDING = {torch.float32: 0.0, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}
SMALLEST_FLOAT16 = 2.0**-24
# Through a head the logits themselves are rounded to its dtype, and sums over them in half precision once more.
HEAD_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 4e-3}
HIDDEN_SIZE = 64


@dataclass(frozen=True)
class Case:
    """One call, forward and backward."""

    op: str
    dtype: str
    rows: int
    columns: int
    condition: str

    def __str__(self) -> str:
        return f"{self.op}, {self.rows} x {self.columns}, {self.dtype}, {self.condition}"


@dataclass
class Inputs:
    """Logits (N, V) as a condition has changed them, and the options that go with them."""

    logits: Tensor
    targets: Tensor
    options: dict[str, Any] = field(default_factory=dict)
    outputs: tuple[str, ...] = DEFAULT_OUTPUTS
    inplace: bool = False


def all_fields(inputs: Inputs) -> None:
    inputs.outputs = FIELDS


def softcap(inputs: Inputs) -> None:
    inputs.options["softcap"] = 8.0


def temperatures(inputs: Inputs) -> None:
    inputs.options["temperature"] = torch.rand(len(inputs.targets), device=inputs.targets.device) + 0.5


def unaligned(inputs: Inputs) -> None:
    """Every row begins one element after 16 bytes, or wherever V leaves it."""
    shifted = inputs.logits.new_empty(inputs.logits.numel() + 1)[1:].view_as(inputs.logits)
    inputs.logits = shifted.copy_(inputs.logits)


def padded(inputs: Inputs) -> None:
    """The head has 64 columns more than the vocabulary, and what stands in them is nobody's business."""
    inputs.options["vocab_size"] = inputs.logits.shape[-1]
    padding = torch.full_like(inputs.logits[:, :1], math.nan).expand(-1, 64)
    inputs.logits = torch.cat([inputs.logits, padding], dim=1)


def masked(inputs: Inputs) -> None:
    """Two rows that do not count, by the mask and by their target; nothing may come of what is in them."""
    inputs.options["mask"] = torch.arange(len(inputs.targets), device=inputs.targets.device) != 0
    inputs.targets[1] = IGNORE_INDEX
    inputs.logits[:2] = math.nan


def outside_support(inputs: Inputs) -> None:
    """A third of the columns are -inf, one target among them; one row has nothing else, one a NaN, one +inf."""
    some_columns_gone(inputs)
    inputs.logits[0] = -math.inf
    inputs.logits[1, 20], inputs.logits[2, 30] = math.nan, math.inf
    inputs.logits[3, inputs.targets[3]] = -math.inf


def some_columns_gone(inputs: Inputs) -> None:
    """A third of the columns are -inf, no target among them: the loss of a token of probability 0 is not finite."""
    chosen = inputs.logits.gather(-1, inputs.targets[:, None])
    inputs.logits.masked_fill_(torch.rand_like(inputs.logits, dtype=torch.float32) < 0.3, -math.inf)
    inputs.logits.scatter_(-1, inputs.targets[:, None], chosen)


def nearly_certain(inputs: Inputs) -> None:
    inputs.logits *= 15


def shifted(inputs: Inputs) -> None:
    inputs.logits += 1e4


def in_place(inputs: Inputs) -> None:
    inputs.inplace = True


CONDITIONS: dict[str, Callable[[Inputs], None]] = {
    "as it comes": lambda inputs: None,
    "all fields": all_fields,
    "softcap": softcap,
    "a temperature a row": temperatures,
    "unaligned rows": unaligned,
    "padded vocabulary": padded,
    "masked rows": masked,
    "-inf, NaN and +inf": outside_support,
    "columns of -inf": some_columns_gone,
    "nearly certain": nearly_certain,
    "shifted by 10000": shifted,
    "in place": in_place,
}
STATISTICS_CONDITIONS = tuple(name for name in CONDITIONS if name != "columns of -inf")
LOSS_CONDITIONS = (
    "as it comes", "softcap", "a temperature a row", "unaligned rows", "padded vocabulary", "masked rows",
    "columns of -inf", "nearly certain", "in place",
)  # fmt: skip


def grid(tiny: bool) -> list[Case]:
    """Every case, the most telling first: the vocabularies of models, then what is rare.

    Rows are few, which are split, and many, which are not; V = 50257 leaves rows at every alignment.
    """
    if tiny:
        conditions = {"token_stats": STATISTICS_CONDITIONS, "grpo_loss": LOSS_CONDITIONS}
        heads = [Case(op, "float32", 8, 300, "as it comes") for op in HEADS]
        return [Case(op, "float32", 8, 300, name) for op, names in conditions.items() for name in names] + heads
    found = [
        Case(op, dtype, rows, columns, "as it comes")
        for dtype in ("bfloat16", "float32", "float16")
        for op in ("token_stats", "grpo_loss")
        for rows, columns in ((640, 151936), (8, 151936), (640, 50257), (8, 50257), (1024, 32000), (64, 32000))
    ]
    found += [Case(op, dtype, 256, 32000, "as it comes") for op in HEADS for dtype in ("bfloat16", "float32")]
    found += [
        Case(op, dtype, rows, columns, condition)
        for rows, columns in ((640, 50264), (8, 50257), (8, 300), (640, 4097))
        for dtype in ("bfloat16", "float32", "float16")
        for op, conditions in (("token_stats", STATISTICS_CONDITIONS), ("grpo_loss", LOSS_CONDITIONS))
        for condition in conditions[1:]
    ]
    return found + [Case("token_stats", "bfloat16", rows, 262144, "as it comes") for rows in (8, 640)]


HEADS = ("linear_token_stats", "linear_grpo_loss")


@contextmanager
def poisoned() -> Iterator[None]:
    """Within, memory that torch hands out uninitialised holds NaN, and the largest numbers of integer types."""
    was = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was[0], warn_only=was[1])


def faults(case: Case, device: str, backend: str | None) -> list[str]:
    """What is wrong with the case, in words; nothing if it is right."""
    torch.manual_seed(0)
    if case.op in HEADS:
        return head_faults(case, device, backend)
    inputs = make_inputs(case, device)
    return (statistics_faults if case.op == "token_stats" else loss_faults)(inputs, backend)


def make_inputs(case: Case, device: str) -> Inputs:
    logits = 3 * torch.randn(case.rows, case.columns, device=device)
    targets = torch.randint(case.columns, (case.rows,), device=device)
    targets[::2] = logits[::2].argmax(-1)  # kernels treat the largest by itself
    inputs = Inputs(logits.to(getattr(torch, case.dtype)), targets)
    CONDITIONS[case.condition](inputs)
    return inputs


def doubled(options: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in options.items()
    }


def mixed(stats: TokenStats, weights: dict[str, Tensor]) -> Tensor:
    """A scalar whose gradient mixes every field; a log-probability of -inf would make it so, and is left out."""
    terms = [
        (weight.to(value.dtype) * value).masked_fill(value.isinf(), 0).sum()
        for name, weight in weights.items()
        if (value := getattr(stats, name)) is not None
    ]
    return torch.stack(terms).sum()


def statistics_faults(inputs: Inputs, backend: str | None) -> list[str]:
    leaf = inputs.logits.detach().clone() if inputs.inplace else inputs.logits.detach()
    leaf.requires_grad_()
    weights = {
        name: torch.randn(inputs.targets.shape, device=leaf.device) for name in inputs.outputs if name in DIFFERENTIABLE
    }
    options = {"outputs": inputs.outputs, "backend": backend, **inputs.options}
    with poisoned():
        logits = leaf * 1 if inputs.inplace else leaf
        stats = token_stats(logits, inputs.targets, inplace_backward=inputs.inplace, **options)
        mixed(stats, weights).backward()
    exact = inputs.logits.detach().double().requires_grad_()
    expected = reference.token_stats(exact, inputs.targets, outputs=inputs.outputs, **doubled(inputs.options))
    mixed(expected, weights).backward()
    assert leaf.grad is not None
    assert exact.grad is not None

    found = [
        fault for name in inputs.outputs if (fault := value_fault(name, getattr(stats, name), getattr(expected, name)))
    ]
    temperature = inputs.options.get("temperature", 1.0)
    if "varentropy" in weights:
        assert expected.varentropy is not None
        weights["varentropy"] = weights["varentropy"] * expected.varentropy.detach().clamp(min=1)
    size = torch.stack([weight.abs() for weight in weights.values()]).sum(0) / temperature
    found += gradient_faults(leaf.grad, exact.grad, GRADIENT_TOLERANCE * size.double()[:, None])
    return found + changed_bits(stats, inputs, options)


def value_fault(name: str, value: Tensor, expected: Tensor) -> str | None:
    if not torch.equal(value.isnan(), expected.isnan()):
        return f"{name}: NaN in {int((value.isnan() != expected.isnan()).sum())} rows too many or too few"
    close = (value.double() - expected).abs() <= VALUE_TOLERANCE * expected.abs().clamp(min=1)
    wrong = ~(close | (value.double() == expected) | expected.isnan())
    return worst(name, value, expected, wrong)


def gradient_faults(value: Tensor, expected: Tensor, bound: Tensor) -> list[str]:
    """A row whose results are not numbers has no gradient to compare."""
    defined = ~expected.isnan().any(-1, keepdim=True)
    allowed = bound + ROUNDING[value.dtype] * expected.abs()
    if value.dtype == torch.float16:
        allowed = allowed + SMALLEST_FLOAT16
    wrong = ~((value.double() - expected).abs() <= allowed) & defined
    fault = worst("gradient", value, expected, wrong)
    return [fault] if fault else []


def worst(name: str, value: Tensor, expected: Tensor, wrong: Tensor) -> str | None:
    """Say how many values are wrong, and show the first."""
    if not wrong.any():
        return None
    place = tuple(wrong.nonzero()[0].tolist())
    got, wanted = value[place].item(), expected[place].item()
    return f"{name}: {int(wrong.sum())} of {wrong.numel()} wrong, {got!r} for {wanted!r} at {place}"


def changed_bits(stats: TokenStats, inputs: Inputs, options: dict[str, Any]) -> list[str]:
    """A row has the same bits on every run, and alone as in the batch."""
    found = []
    for what, part in (("again", slice(None)), ("alone", slice(2, 3))):
        rows: dict[str, Any] = {
            name: value[part] if isinstance(value, Tensor) and value.dim() else value for name, value in options.items()
        }
        with torch.no_grad():
            other = token_stats(inputs.logits.detach()[part], inputs.targets[part], **rows)
        for name in inputs.outputs:
            first, second = getattr(stats, name).detach()[part], getattr(other, name)
            if not torch.equal(first.nan_to_num(), second.nan_to_num()):
                found.append(f"{name}: other bits {what}")
    return found


def loss_faults(inputs: Inputs, backend: str | None) -> list[str]:
    shape = (len(inputs.targets) // 4, 4)

    def grouped(value: Any) -> Any:
        return value.view(*shape, *value.shape[1:]) if isinstance(value, Tensor) and value.dim() else value

    options = {name: grouped(value) for name, value in inputs.options.items()}
    targets = grouped(inputs.targets)
    with torch.no_grad():
        logprob = reference.token_stats(inputs.logits.double(), inputs.targets, **doubled(inputs.options)).logprob
    assert logprob is not None
    # Clipped on either side or not at all, never so near the bound that rounding decides which.
    steps = torch.randint(-1, 2, shape, device=targets.device)
    old = grouped(logprob.float()) + 0.4 * steps
    ref = grouped(logprob.float()) + 0.3 * torch.randn(shape, device=targets.device)
    advantages = torch.randn(shape[0], device=targets.device)
    terms: dict[str, Any] = {"beta": 0.04, "entropy_coef": 0.02, "self_certainty_coef": 0.01}

    leaf = inputs.logits.detach().clone() if inputs.inplace else inputs.logits.detach()
    leaf.requires_grad_()
    with poisoned():
        logits = grouped(leaf * 1 if inputs.inplace else leaf)
        ours = grpo_loss(
            logits, targets, advantages, old, ref, inplace_backward=inputs.inplace, backend=backend, **options, **terms
        )
        ours.loss.backward()
    exact = inputs.logits.detach().double().requires_grad_()
    expected = reference.grpo_loss(
        grouped(exact), targets, advantages.double(), old.double(), ref.double(), **doubled(options), **terms
    )
    expected.loss.backward()
    assert leaf.grad is not None
    assert exact.grad is not None
    bound = LOSS_TOLERANCE * exact.grad.abs().max().clamp(min=1e-9)
    return result_faults(ours, expected) + gradient_faults(leaf.grad, exact.grad, bound)


def result_faults(ours: GRPOLoss, expected: GRPOLoss) -> list[str]:
    found = []
    for name, value, wanted in zip(GRPOLoss._fields, ours, expected, strict=True):
        if value is None or wanted is None:
            if (value is None) != (wanted is None):
                found.append(f"{name}: {value!r} for {wanted!r}")
        elif name == "clipped":
            if not torch.equal(value, wanted):
                found.append(f"clipped: {int((value != wanted).sum())} flags differ")
        else:
            bound = LOSS_TOLERANCE * wanted.abs().max().clamp(min=1e-3 if name == "kl" else 0.1)
            fault = worst(name, value, wanted, ~((value.double() - wanted).abs() <= bound))
            found += [fault] if fault else []
    return found


def head_faults(case: Case, device: str, backend: str | None) -> list[str]:
    """Of a head both leaves' gradients and the outputs, as norms of differences to norms."""
    dtype = getattr(torch, case.dtype)
    leaves = [
        torch.randn(case.rows, HIDDEN_SIZE, device=device).to(dtype),
        (3 / math.sqrt(HIDDEN_SIZE) * torch.randn(case.columns, HIDDEN_SIZE, device=device)).to(dtype),
    ]
    ours, exact = (tuple(leaf.to(to, copy=True).requires_grad_() for leaf in leaves) for to in (dtype, torch.float64))
    (hidden, weight), (exact_hidden, exact_weight) = ours, exact
    targets = torch.randint(case.columns, (case.rows,), device=device)
    more: dict[str, Any] = {"backend": backend, "tile_bytes": case.columns * dtype.itemsize * case.rows // 3}
    if case.op == "linear_token_stats":
        weights = {name: torch.randn(case.rows, device=device) for name in DEFAULT_OUTPUTS}
        with poisoned():
            values = linear_token_stats(hidden, weight, targets, **more)
            mixed(values, weights).backward()
        wanted = reference.linear_token_stats(exact_hidden, exact_weight, targets)
        mixed(wanted, weights).backward()
        pairs = [(name, getattr(values, name), getattr(wanted, name)) for name in DEFAULT_OUTPUTS]
    else:
        shape = (case.rows // 4, 4)
        advantages = torch.randn(shape[0], device=device)
        with poisoned():
            completions = hidden.view(*shape, -1)
            loss = linear_grpo_loss(completions, weight, targets.view(shape), advantages, entropy_coef=0.02, **more)
            loss.loss.backward()
        completions = exact_hidden.view(*shape, -1)
        expected = reference.linear_grpo_loss(
            completions, exact_weight, targets.view(shape), advantages.double(), entropy_coef=0.02
        )
        expected.loss.backward()
        pairs = [("logprob", loss.logprob, expected.logprob), ("entropy", loss.entropy, expected.entropy)]
    pairs += [
        (f"gradient of {name}", value.grad, truth.grad)
        for name, value, truth in zip(("hidden", "weight"), ours, exact, strict=True)
    ]
    found = []
    for name, value, truth in pairs:
        off = ((value.double() - truth).norm() / truth.norm()).item()
        if not off <= HEAD_TOLERANCE[dtype]:
            found.append(f"{name}: off by {off:.1e} of its norm")
    return found
