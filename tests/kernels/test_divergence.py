"""Divergences of a student's rows and a teacher's: values and gradients, edges, bits."""

import math

import pytest
import torch
import torch.nn.functional as F

from comparison import DEVICE, mostly_interpreted
from divergences import (
    check_divergence,
    pair_of_logits,
)
from rlif_kernels import divergence, reference
from rlif_kernels.pairs import KINDS, PAIR_OUTPUTS

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def grad_of(logits, teacher_logits, **options):
    leaf = logits.detach().requires_grad_()
    divergence(leaf, teacher_logits, **options).loss.backward()
    return leaf.grad


# ---------------------------------------------------------------- the definition


@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_has_the_gradient_that_the_docstring_states(kind):
    beta, (x, y) = 0.3, (t.double() for t in pair_of_logits(5, 40))
    x.requires_grad_()
    logp, logq = x.log_softmax(-1), y.log_softmax(-1)
    p, q = logp.exp().detach(), logq.exp()
    m = (1 - beta) * p + beta * q
    to_mixture = (p * (logp - m.log())).sum(-1, keepdim=True)
    value, gradient = {
        "forward_kl": ((q * (logq - logp)).sum(-1), p - q),
        "reverse_kl": ((p * (logp - logq)).sum(-1), p * (logp - logq - (p * (logp - logq)).sum(-1, keepdim=True))),
        "jsd": (
            beta * (q * (logq - m.log())).sum(-1) + (1 - beta) * to_mixture[:, 0],
            (1 - beta) * p * (logp - m.log() - to_mixture),
        ),
    }[kind]
    result = reference.divergence(x, y, kind=kind, beta=beta, token_weight=torch.ones(5))
    result.loss.backward()
    torch.testing.assert_close(result.value, value.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(x.grad, gradient.detach(), rtol=1e-12, atol=1e-12)


def generalized_jsd(student, teacher, beta, temperature):
    """GKD's loss of each token by torch's kl_div, whose input is log probabilities and whose target comes second."""
    logp, logq = ((x / temperature).log_softmax(-1) for x in (student, teacher))
    if beta in (0, 1):
        input_, target = (logp, logq) if beta == 0 else (logq, logp)
        return F.kl_div(input_, target, reduction="none", log_target=True).sum(-1)
    logm = torch.logsumexp(torch.stack([logp + math.log(1 - beta), logq + math.log(beta)]), 0)
    of_teacher, of_student = (F.kl_div(logm, x, reduction="none", log_target=True).sum(-1) for x in (logq, logp))
    return beta * of_teacher + (1 - beta) * of_student


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_beta_of_0_and_1_are_the_two_kls_as_distillation_trainers_have_it(beta, backend):
    x, y = pair_of_logits(2, 3, 50)
    mask = torch.tensor([[True, True, False], [True, False, True]], device=DEVICE)
    exact = x.double().requires_grad_()
    expected = generalized_jsd(exact, y.double(), beta, 0.9)[mask].mean()
    expected.backward()
    leaf = x.clone().requires_grad_()
    result = divergence(leaf, y, kind="jsd", beta=beta, temperature=0.9, mask=mask, backend=backend)
    result.loss.backward()
    torch.testing.assert_close(result.loss.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(leaf.grad.double(), exact.grad, rtol=0, atol=1e-6)


# ---------------------------------------------------------------- values and gradients


@pytest.mark.parametrize("num_columns", mostly_interpreted(1, 5, 37, 1000, 5003, 40009, fast=(37,), slow=(5003,)))
@pytest.mark.parametrize("dtype", DTYPES)
def test_values_and_gradients_match_the_reference(dtype, num_columns, backend):
    check_divergence(*pair_of_logits(3, num_columns, dtype=dtype), backend)


@pytest.mark.parametrize("scale", mostly_interpreted(0.01, 1.0, 50.0, fast=(50.0,), slow=()))
@pytest.mark.parametrize("shift", mostly_interpreted(0.0, 1e4, fast=(1e4,), slow=()))
def test_any_scale_and_shift_match_the_reference(shift, scale, backend):
    x, y = pair_of_logits(4, 3001 if backend != "triton" else 700, scale=scale, apart=0.3)
    check_divergence(x + shift, y - shift, backend, temperature=0.8, teacher_temperature=1.7)


@pytest.mark.parametrize(
    ("dtype", "teacher_dtype"),
    mostly_interpreted(*((a, b) for a in DTYPES for b in DTYPES if a != b), fast=((DTYPES[1], DTYPES[0]),)),
)
def test_the_teacher_may_have_another_dtype(dtype, teacher_dtype, backend):
    x, y = pair_of_logits(3, 300)
    check_divergence(x.to(dtype), y.to(teacher_dtype), backend)


@pytest.mark.slow_interpreted
def test_every_option_of_the_rows_holds(backend):
    x, y = pair_of_logits(6, 4, 320)
    x, y = x.transpose(0, 1)[..., :310], y.transpose(0, 1)[..., :315]  # views of other strides, and unequal heads
    x[..., 300:] = torch.nan  # never read
    options = {
        "vocab_size": 300,
        "softcap": 8.0,
        "teacher_softcap": 5.0,
        "mask": torch.rand(4, 6, device=DEVICE) > 0.3,
        "temperature": torch.rand(4, 6, device=DEVICE) + 0.5,
        "teacher_temperature": torch.rand(4, 6, device=DEVICE) + 0.5,
    }
    result, grad = check_divergence(x, y, backend, **options)
    assert (grad[..., 300:] == 0).all()
    assert (grad[~options["mask"]] == 0).all()
    assert (result.value[~options["mask"]] == 0).all()


def test_unequal_heads_are_compared_over_the_columns_that_both_have(backend):
    x, y = pair_of_logits(3, 40)
    longer, longer_teacher = F.pad(x, (0, 7), value=9.0), F.pad(y, (0, 5), value=9.0)
    for student, teacher in ((longer, y), (x, longer_teacher), (longer, longer_teacher[:, :40])):
        expected = divergence(x, y, kind="jsd", outputs=PAIR_OUTPUTS, backend=backend)
        actual = divergence(student, teacher, kind="jsd", outputs=PAIR_OUTPUTS, backend=backend)
        for value, other in zip(actual, expected, strict=True):
            assert torch.equal(value, other)
        grad = grad_of(student, teacher, kind="jsd", backend=backend)
        assert torch.equal(grad[:, :40], grad_of(x, y, kind="jsd", backend=backend))
        assert (grad[:, 40:] == 0).all()


def test_the_loss_is_the_mean_over_active_rows_or_the_weighted_sum(backend):
    x, y = pair_of_logits(2, 3, 50)
    mask = torch.tensor([[True, False, True], [True, True, False]], device=DEVICE)
    weight = torch.randn(2, 3, device=DEVICE)
    mean = divergence(x, y, kind="reverse_kl", mask=mask, backend=backend)
    torch.testing.assert_close(mean.loss, mean.value[mask].mean())
    weighted = divergence(x, y, kind="reverse_kl", mask=mask, token_weight=weight, backend=backend)
    torch.testing.assert_close(weighted.loss, (weight * mean.value)[mask].sum())
    nothing = divergence(x, y, kind="reverse_kl", mask=mask & False, backend=backend)
    assert nothing.loss == 0


def test_the_upstream_gradient_of_the_loss_scales_the_gradient(backend):
    x, y = pair_of_logits(3, 50)
    leaf = x.clone().requires_grad_()
    (3 * divergence(leaf, y, kind="jsd", backend=backend).loss).backward()
    torch.testing.assert_close(leaf.grad, 3 * grad_of(x, y, kind="jsd", backend=backend))


@pytest.mark.slow_interpreted
def test_draws_of_every_option_match_the_reference(backend):
    generator = torch.Generator().manual_seed(5)

    def draw(*values):
        return values[int(torch.randint(len(values), (), generator=generator))]

    for _ in range(4 if backend == "triton" else 40):
        dtype, scale = draw(*DTYPES), draw(0.1, 3.0, 20.0)
        x, y = pair_of_logits(draw(1, 2, 5), draw(2, 17, 130, 700), scale=scale, apart=draw(0.0, 0.01, 1.0))
        outside = torch.rand(x.shape, generator=generator).to(DEVICE) < draw(0, 0, 0.2)
        x, y = (side.masked_fill(outside & draw(True, False), -torch.inf) for side in (x, y))
        options = {"temperature": draw(1.0, 0.6), "softcap": draw(None, 10.0), "teacher_softcap": draw(None, 30.0)}
        check_divergence(x.to(dtype), y.to(dtype), backend, teacher_temperature=draw(None, 1.0, 2.0), **options)


# ---------------------------------------------------------------- the edges


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", mostly_interpreted(*DTYPES[:2], fast=(torch.float32,)))
def test_equal_distributions_have_value_and_gradient_exactly_0(dtype, kind, backend):
    x, _ = pair_of_logits(4, 5003 if backend != "triton" else 700, dtype=dtype)
    x[1, ::3] = -torch.inf
    x[2, 1:] -= 60.0
    for beta in (0.5, 0.1, 0.77) if kind == "jsd" else (0.5,):
        for options in ({}, {"temperature": 0.7, "softcap": 30.0, "teacher_softcap": 30.0}):
            leaf = x.clone().requires_grad_()
            result = divergence(leaf, x.clone(), kind=kind, beta=beta, backend=backend, **options)
            result.loss.backward()
            assert (result.value == 0).all()
            assert (leaf.grad == 0).all()


@pytest.mark.slow_interpreted
def test_columns_outside_both_supports_count_for_nothing(backend):
    x, y = pair_of_logits(4, 37)
    outside = torch.tensor([0, 5, 6, 36], device=DEVICE)
    inside = [j for j in range(37) if j not in outside.tolist()]
    x[:, outside] = y[:, outside] = -torch.inf
    _, grad = check_divergence(x, y, backend)
    assert (grad[:, outside] == 0).all()
    actual, expected = (divergence(a, b, kind="jsd", outputs=PAIR_OUTPUTS, backend=backend) for a, b in (
        (x, y), (x[:, inside], y[:, inside])
    ))  # fmt: skip
    for value, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(value, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("num_columns", mostly_interpreted(37, 5003, fast=(37,)))
def test_a_column_that_one_side_lacks_makes_the_kl_infinite_that_weighs_it(num_columns, backend):
    x, y = pair_of_logits(3, num_columns)
    x[1, 7], y[2, 11] = -torch.inf, -torch.inf
    check_divergence(x, y, backend)
    forward, reverse, jsd = (
        divergence(x, y, kind=kind, outputs=PAIR_OUTPUTS, backend=backend)
        for kind in ("forward_kl", "reverse_kl", "jsd")
    )
    assert forward.value.isinf().tolist() == forward.teacher_cross_entropy.isinf().tolist() == [False, True, False]
    assert reverse.value.isinf().tolist() == reverse.cross_entropy.isinf().tolist() == [False, False, True]
    assert jsd.value.isfinite().all()
    grad = grad_of(x, y, kind="forward_kl", backend=backend)
    assert grad.isfinite().all()
    assert grad[1, 7] == 0
    weight = torch.ones(3, device=DEVICE)
    grad = grad_of(x, y, kind="reverse_kl", token_weight=weight, backend=backend)
    assert grad[2].isnan().all()
    assert grad[:2].isfinite().all()


def test_however_little_the_other_side_has_there_it_is_infinite(backend):
    # exp(-3000) is 0 in float32 and in float64, and more than nothing by the definition.
    x, y = pair_of_logits(2, 40)
    x[0, 3], y[0, 3] = -torch.inf, -3000.0
    y[1, 3], x[1, 3] = -torch.inf, -3000.0
    assert divergence(x, y, kind="forward_kl", backend=backend).value.isinf().tolist() == [True, False]
    assert divergence(x, y, kind="reverse_kl", backend=backend).value.isinf().tolist() == [False, True]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_columns_at_the_lowest_float32_on_both_sides_count_for_nothing(temperature, backend):
    x, y = pair_of_logits(3, 600)
    x[:, 400:] = y[:, 400:] = torch.finfo(torch.float32).min
    check_divergence(x, y, backend, temperature=temperature)


@pytest.mark.parametrize("kind", mostly_interpreted(*KINDS, fast=("reverse_kl",)))
@pytest.mark.parametrize("temperature", mostly_interpreted(1.0, 2.5, fast=(2.5,)))
def test_columns_at_the_lowest_float32_on_one_side_are_a_finite_distance(temperature, kind, backend):
    x, y = pair_of_logits(3, 600)
    x[0, 400:] = y[1, 400:] = torch.finfo(torch.float32).min  # their sum is beyond float32, their mean is not
    x.requires_grad_()
    result = divergence(x, y, kind=kind, temperature=temperature, backend=backend)
    result.loss.backward()
    assert result.value.isfinite().all()
    assert x.grad.isfinite().all()
    if temperature > 2:  # else differences of log-probabilities are cut at the lowest float32
        expected = reference.divergence(x.detach().double(), y.double(), kind=kind, temperature=temperature)
        torch.testing.assert_close(result.value.double(), expected.value, rtol=4e-6, atol=4e-6)


@pytest.mark.slow_interpreted
def test_a_side_with_nearly_all_its_probability_in_one_column_keeps_its_digits(backend):
    x, y = pair_of_logits(4, 5003, scale=1.0)
    x[0, 70] = y[0, 70] = 30.0  # the same column
    x[1, 70], y[1, 90] = 30.0, 25.0  # another one
    x[2, 70] = 90.0
    y[3, 4999] = 200.0
    check_divergence(x, y, backend)


@pytest.mark.parametrize("poison", mostly_interpreted(math.nan, math.inf, fast=(math.inf,)))
@pytest.mark.parametrize("kind", mostly_interpreted(*KINDS, fast=("jsd",)))
def test_nan_or_infinity_on_either_side_gives_nan_in_that_row_alone(kind, poison, backend):
    x, y = pair_of_logits(4, 50)
    options = {"kind": kind, "outputs": PAIR_OUTPUTS, "token_weight": torch.ones(4, device=DEVICE), "backend": backend}
    clean, clean_grad = divergence(x, y, **options), grad_of(x, y, **options)
    x[1, 20] = poison
    y[2, 20] = poison
    actual, grad = divergence(x, y, **options), grad_of(x, y, **options)
    for value, other in zip(actual[1:], clean[1:], strict=True):
        assert value[1:3].isnan().all()
        assert torch.equal(value[[0, 3]], other[[0, 3]])
    assert grad[1:3].isnan().any(-1).all()
    assert torch.equal(grad[[0, 3]], clean_grad[[0, 3]])


@pytest.mark.parametrize("side", [0, 1])
def test_a_row_of_minus_infinity_only_gives_nan(side, backend):
    pair = pair_of_logits(3, 50)
    pair[side][1] = -torch.inf
    for kind in KINDS:
        value = divergence(*pair, kind=kind, outputs=PAIR_OUTPUTS, backend=backend)
        assert all(each[1].isnan() and each[[0, 2]].isfinite().all() for each in value[1:])


def test_masked_rows_are_not_read(backend):
    x, y = pair_of_logits(3, 50)
    mask = torch.tensor([True, False, True], device=DEVICE)
    x[1], y[1] = torch.nan, torch.nan
    result, grad = check_divergence(x, y, backend, mask=mask)
    assert result.loss.isfinite()
    assert (grad[1] == 0).all()


def test_zero_rows_give_empty_outputs_and_a_backward(backend):
    leaf = torch.zeros(2, 0, 9, device=DEVICE, requires_grad=True)
    result = divergence(leaf, torch.zeros(2, 0, 9, device=DEVICE), kind="jsd", backend=backend)
    result.loss.backward()
    assert result.value.shape == (2, 0)
    assert leaf.grad.shape == leaf.shape


# ---------------------------------------------------------------- bits


@pytest.mark.parametrize("num_columns", mostly_interpreted(37, 5003, 40009, fast=(37,), slow=(5003,)))
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_alone_has_the_bits_that_it_has_in_a_batch(kind, num_columns, backend):
    x, y = pair_of_logits(5, num_columns)
    x[3, 3] = y[3, 3] = -torch.inf
    weight = torch.rand(5, device=DEVICE)

    def bits(rows):
        options = {"kind": kind, "outputs": PAIR_OUTPUTS, "token_weight": weight[rows], "backend": backend}
        return [*divergence(x[rows], y[rows], **options)[1:], grad_of(x[rows], y[rows], **options)]

    batch = bits(slice(None))
    for i in (0, 3, 4):
        for value, expected in zip(bits(slice(i, i + 1)), batch, strict=True):
            assert torch.equal(value, expected[i : i + 1])
    for value, expected in zip(bits(torch.tensor([4, 2, 0, 1, 3])), batch, strict=True):
        assert torch.equal(value, expected[[4, 2, 0, 1, 3]])
