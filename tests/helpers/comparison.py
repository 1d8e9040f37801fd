"""The comparison with the float64 reference that the kernel tests share."""

from typing import Any

import pytest
import torch
from torch import Tensor

from rlif_kernels import TokenStats, reference, token_stats
from rlif_kernels.functional import DIFFERENTIABLE, dtype_of
from rlif_kernels.stats import FIELDS, NO_COLUMN, TOP_FIELDS

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

# Those of the k largest columns have tests of their own: Triton's interpreter looks for each of the k in turn.
ROW_FIELDS = tuple(name for name in FIELDS if name not in TOP_FIELDS)
# Numbers with a fraction, of which those of DIFFERENTIABLE have gradients.
SUM_FIELDS = tuple(name for name in ROW_FIELDS if dtype_of(name) == torch.float32)

# The contract's bounds (float32 results against the float64 reference of the same, already rounded, logits).
VALUE_TOLERANCE = 4e-6  # times max(1, |value|)
GRADIENT_TOLERANCE = 2e-6  # times the largest upstream gradient
# Storing a gradient in a narrower type rounds it: by half a unit in the last place on hardware, up to a whole one in
# Triton's interpreter, which truncates bfloat16.
ROUNDING = {torch.float32: 0.0, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}


def mostly_interpreted(*values: Any, fast: tuple[Any, ...], slow: tuple[Any, ...] | None = None) -> list[Any]:
    """The values as parameters, divided by what they cost where Triton's interpreter computes.

    Args:
        values: that a device tries all; a tuple is the values of several parameters.
        fast: the interpreter always tries these.
        slow: those that it tries among the slow tests: one for each branch that the fast ones do not take, and it never
            tries the others. None: all others.
    """
    parameters = []
    for value in values:
        mark = pytest.mark.slow_interpreted if slow is None or value in slow else pytest.mark.not_interpreted
        several = value if isinstance(value, tuple) else (value,)
        parameters.append(value if value in fast else pytest.param(*several, marks=mark))
    return parameters


def random_targets(
    logits: Tensor, num_columns: int | None = None, *, outside: bool = True, generator: torch.Generator | None = None
) -> Tensor:
    """Targets of (..., V) logits, (...): each kind of target in turn, from a kind drawn at random.

    They are the row's largest, a draw from its own distribution, any column, and one of -inf if there is any. Without
    `outside` none is on a column of -inf, unless the row has nothing else. A column drawn from many is hardly ever the
    largest, which kernels treat by itself.
    """
    rows = logits.detach()[..., :num_columns].reshape(-1, num_columns or logits.shape[-1]).float().cpu()
    numbers = rows.nan_to_num(nan=0.0, posinf=0.0, neginf=-1e30)
    anything = torch.ones_like(rows)

    def drawn(weights: Tensor) -> Tensor:
        return weights.multinomial(1, generator=generator)[:, 0]

    def any_of(columns: Tensor) -> Tensor:
        return drawn(torch.where(columns.any(-1, keepdim=True), columns.float(), anything))

    kinds = [numbers.argmax(-1), drawn(numbers.softmax(-1))]
    kinds += [drawn(anything), any_of(rows == -torch.inf)] if outside else [any_of(rows != -torch.inf)]
    first = int(torch.randint(len(kinds), (), generator=generator))
    which = (torch.arange(len(rows)) + first) % len(kinds)
    return torch.stack(kinds).gather(0, which[None])[0].view(logits.shape[:-1]).to(logits.device)


def assert_values_match(actual: TokenStats, expected: TokenStats) -> None:
    for name, value, target in zip(FIELDS, actual, expected, strict=True):
        assert (value is None) == (target is None), name
        if value is None:
            continue
        assert value.shape == target.shape, name
        if not target.is_floating_point():  # ids and ranks are exact
            assert value.dtype == torch.int64, name
            assert torch.equal(value, target), name
            continue
        assert value.dtype == torch.float32, name
        assert torch.equal(value.isnan(), target.isnan()), name
        bound = VALUE_TOLERANCE * target.abs().clamp(min=1)
        wrong = ~((value.double() - target).abs() <= bound) & ~(value.double() == target) & ~target.isnan()
        assert not wrong.any(), f"{name}: {value[wrong][:4]} != {target[wrong][:4]}"


def present(stats: TokenStats) -> list[Tensor]:
    """The fields that were asked for."""
    return [value for value in stats if value is not None]


def is_undefined(value: Tensor) -> bool:
    """Whether all of a field of one row says that the row is no distribution."""
    return bool((value.isnan() if value.is_floating_point() else value == NO_COLUMN).all())


def upstream_gradients(shape: torch.Size, device: torch.device | str = DEVICE) -> dict[str, Tensor]:
    return {name: torch.randn(shape, device=device) for name in DIFFERENTIABLE}


def weighted_sum(stats: TokenStats, weights: dict[str, Tensor]) -> Tensor:
    """A scalar whose gradient mixes every field; a log-probability of -inf would make it so, and is left out."""
    terms = [
        (weights[name].to(value.dtype) * value).masked_fill(value.isinf(), 0).sum()
        for name, value in zip(FIELDS, stats, strict=True)
        if value is not None and name in weights
    ]
    return torch.stack(terms).sum()


def check_against_reference(
    logits: Tensor, targets: Tensor, backend: str, outputs: tuple[str, ...] = ROW_FIELDS, **options
) -> tuple[TokenStats, Tensor]:
    """Compare values and gradients with the float64 reference; return ours."""
    ours = logits.detach().requires_grad_()
    exact = logits.detach().double().requires_grad_()
    exact_options = {
        name: value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in options.items()
    }
    stats = token_stats(ours, targets, outputs=outputs, backend=backend, **options)
    expected = reference.token_stats(exact, targets, outputs=outputs, **exact_options)
    assert_values_match(stats, expected)

    weights = {n: w for n, w in upstream_gradients(targets.shape, logits.device).items() if n in outputs}
    if weights:
        weighted_sum(stats, weights).backward()
        weighted_sum(expected, weights).backward()
        assert_gradients_match(
            ours.grad, exact.grad, gradient_sizes(weights, expected), options.get("temperature", 1.0)
        )
    return stats, ours.grad


def gradient_sizes(weights: dict[str, Tensor], expected: TokenStats) -> dict[str, Tensor]:
    """The upstream gradients that the bound is times; that of varentropy is times max(1, its value) first.

    Its gradient has the square of log p + H as a factor, whose mean is that value.
    """
    return {
        name: weight * expected.varentropy.detach().clamp(min=1).nan_to_num(1) if name == "varentropy" else weight
        for name, weight in weights.items()
    }


def assert_gradients_match(
    actual: Tensor, expected: Tensor, sizes: dict[str, Tensor], temperature: float | Tensor = 1.0
) -> None:
    defined = ~expected.isnan().any(-1)  # a row whose results are NaN has no gradient to compare
    size = sum(size.abs() for size in sizes.values()) / temperature
    bound = GRADIENT_TOLERANCE * size[..., None] + ROUNDING[actual.dtype] * expected.abs()
    if actual.dtype == torch.float16:
        bound = bound + 2.0**-24  # the smallest float16
    wrong = ~((actual.double() - expected).abs() <= bound) & defined[..., None]
    assert not wrong.any(), f"{actual[wrong][:4]} != {expected[wrong][:4]}"
