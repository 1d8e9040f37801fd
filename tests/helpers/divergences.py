"""The comparison of divergences with the float64 reference that their tests share."""

import torch
from torch import Tensor

from comparison import DEVICE, GRADIENT_TOLERANCE, ROUNDING, VALUE_TOLERANCE
from rlif_kernels import Divergence, divergence, reference
from rlif_kernels.pairs import KINDS, PAIR_OUTPUTS


def pair_of_logits(*shape: int, scale: float = 3.0, apart: float = 0.5, dtype: torch.dtype = torch.float32):
    """A student's logits, and a teacher's that differ from them by `apart` times their scale."""
    logits = scale * torch.randn(*shape, device=DEVICE)
    return logits.to(dtype), (logits + apart * scale * torch.randn_like(logits)).to(dtype)


def doubled(options: dict) -> dict:
    return {
        name: value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in options.items()
    }


def assert_divergences_match(actual: Divergence, expected: Divergence) -> None:
    for name in PAIR_OUTPUTS:
        value, target = getattr(actual, name), getattr(expected, name)
        assert (value is None) == (target is None), name
        if value is None:
            continue
        assert value.dtype == torch.float32, name
        assert not value.requires_grad, name
        assert value.shape == target.shape, name
        assert torch.equal(value.isnan(), target.isnan()), name
        wrong = ~((value.double() - target).abs() <= VALUE_TOLERANCE * target.abs().clamp(min=1))
        wrong &= (value.double() != target) & ~target.isnan()
        assert not wrong.any(), f"{name}: {value[wrong][:4]} != {target[wrong][:4]}"


def assert_pair_gradients_match(
    actual: Tensor, expected: Tensor, values: Tensor, weight: Tensor, temperature: float | Tensor = 1.0
) -> None:
    """Within the contract's bound of the weight, times the row's divergence where that is more than 1 nat: a gradient
    of KL(p || q) has log p - log q as a factor."""
    size = weight.abs() / temperature * values.abs().clamp(min=1)
    defined = ~expected.isnan().any(-1)
    assert torch.equal(defined, ~actual.isnan().any(-1))
    bound = GRADIENT_TOLERANCE * size[..., None] + ROUNDING[actual.dtype] * expected.abs()
    if actual.dtype == torch.float16:
        bound = bound + 2.0**-24  # the smallest float16
    wrong = ~((actual.double() - expected).abs() <= bound) & defined[..., None]
    assert not wrong.any(), f"{actual[wrong][:4]} != {expected[wrong][:4]}"


def check_divergence(logits: Tensor, teacher_logits: Tensor, backend: str, **options) -> tuple[Divergence, Tensor]:
    """Compare all kinds, their values and gradients with the float64 reference; return those of the last."""
    weight = torch.randn(logits.shape[:-1], device=logits.device)
    for kind, beta in (*((kind, 0.5) for kind in KINDS), ("jsd", 0.1)):
        given = {"token_weight": weight, "kind": kind, "beta": beta, "outputs": PAIR_OUTPUTS, **options}
        ours, exact = logits.detach().requires_grad_(), logits.detach().double().requires_grad_()
        actual = divergence(ours, teacher_logits, backend=backend, **given)
        expected = reference.divergence(exact, teacher_logits.double(), **doubled(given))
        assert_divergences_match(actual, expected)
        actual.loss.backward()
        expected.loss.backward()
        assert_pair_gradients_match(
            ours.grad, exact.grad, expected.value, given["token_weight"], options.get("temperature", 1.0)
        )
    return actual, ours.grad
