"""Every row of the table of edge values, in all three implementations, forward and backward."""

import math

import pytest
import torch

from comparison import (
    DEVICE,
    ROW_FIELDS,
    check_against_reference,
    is_undefined,
    mostly_interpreted,
    present,
    random_targets,
    upstream_gradients,
    weighted_sum,
)
from rlif_kernels import reference, token_stats
from rlif_kernels.backends import c as cpu_backend
from rlif_kernels.stats import FIELDS

ON_CPU = pytest.mark.skipif(DEVICE != "cpu", reason="a GPU answers with NaN instead, to avoid a synchronisation")


@pytest.fixture(params=["reference", "torch", "cpu", "triton"])
def compute(request):
    if request.param == "cpu" and (DEVICE != "cpu" or cpu_backend.library() is None):
        pytest.skip("needs tensors on a CPU, and a C compiler")

    def run(logits, targets, **options):
        if request.param == "reference":
            return reference.token_stats(logits, targets, outputs=FIELDS, top_logprobs=3, **options)
        return token_stats(logits, targets, outputs=FIELDS, top_logprobs=3, backend=request.param, **options)

    return run


def rows(num_rows=4, num_columns=37):
    logits = 2 * torch.randn(num_rows, num_columns, device=DEVICE)
    return logits, random_targets(logits)


def gradient(compute, logits, targets, **options):
    logits = logits.detach().requires_grad_()
    weighted_sum(compute(logits, targets, **options), upstream_gradients(targets.shape)).backward()
    return logits.grad


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7}, {"softcap": 2.0}, {"temperature": 1.9, "softcap": 2.0}])
def test_the_largest_of_a_row_with_a_masked_column_has_the_right_gradient(options, backend):
    logits = torch.tensor([[-0.2676, -torch.inf, 0.1111], [-30.0, 18.5, -torch.inf]], device=DEVICE)
    check_against_reference(logits, torch.tensor([2, 1], device=DEVICE), backend, **options)


@pytest.mark.parametrize("softcap", mostly_interpreted(None, 30.0, fast=(None,)))
def test_a_column_of_minus_infinity_is_outside_the_support(softcap, compute):
    logits, _ = rows()
    targets = torch.full((4,), 3, device=DEVICE)
    outside = torch.tensor([0, 5, 6, 36], device=DEVICE)
    logits[:, outside] = -torch.inf
    inside = [j for j in range(37) if j not in outside.tolist()]
    # The very same row without those columns is the definition of being outside the support.
    shorter, shorter_targets = logits[:, inside], targets - 1
    stats, expected = compute(logits, targets, softcap=softcap), compute(shorter, shorter_targets, softcap=softcap)
    column = torch.tensor(inside, device=DEVICE)
    expected = expected._replace(argmax=column[expected.argmax], top_ids=column[expected.top_ids])
    for value, other in zip(stats, expected, strict=True):
        torch.testing.assert_close(value, other, atol=4e-6, rtol=4e-6)
    torch.manual_seed(1)
    full = gradient(compute, logits, targets, softcap=softcap)
    torch.manual_seed(1)
    short = gradient(compute, shorter, shorter_targets, softcap=softcap)
    assert (full[:, outside] == 0).all()
    torch.testing.assert_close(full[:, inside], short, atol=4e-6, rtol=0)


@pytest.mark.parametrize("field", ["logprob", "logsumexp"])
def test_a_column_of_minus_infinity_has_gradient_exactly_0_when_one_field_is_asked_for(field, backend):
    logits, _ = rows()
    logits[:, 5] = -torch.inf
    logits.requires_grad_()
    targets = torch.tensor([5, 1, 2, 3], device=DEVICE)
    getattr(token_stats(logits, targets, outputs=(field,), backend=backend), field).sum().backward()
    assert (logits.grad[:, 5] == 0).all()


def test_a_target_on_a_column_of_minus_infinity_has_logprob_minus_infinity_and_the_rest_finite(compute):
    logits, targets = rows()
    targets[2] = 5
    logits[2, 5] = -torch.inf
    stats = compute(logits, targets)
    assert stats.logprob[2] == -math.inf
    assert stats.logprob[[0, 1, 3]].isfinite().all()
    for value in stats[1:]:
        assert value.isfinite().all()
    grad = gradient(compute, logits, targets)
    assert grad[2, 5] == 0
    assert grad.isfinite().all()


@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("softcap", mostly_interpreted(None, 30.0, fast=(30.0,)))
def test_nan_or_infinity_in_a_row_gives_nan_in_that_row_alone(poison, softcap, compute):
    logits, targets = rows()
    targets[1] = 0
    expected = compute(logits, targets, softcap=softcap)
    torch.manual_seed(1)
    expected_gradient = gradient(compute, logits, targets, softcap=softcap)
    logits[1, 20] = poison
    others = [0, 2, 3]
    for value, clean in zip(compute(logits, targets, softcap=softcap), expected, strict=True):
        assert is_undefined(value[1])
        assert torch.equal(value[others], clean[others])
    torch.manual_seed(1)
    grad = gradient(compute, logits, targets, softcap=softcap)
    assert grad[1].isnan().any()
    assert torch.equal(grad[others], expected_gradient[others])


@pytest.mark.parametrize("bits", mostly_interpreted(0x7F800001, 0x7FC00001, -1, fast=(0x7F800001,), slow=(-1,)))
def test_nan_of_any_payload_stays_nan(bits, compute):
    for softcap in (None, 30.0):
        logits, targets = rows()
        logits.view(torch.int32)[1, 3] = bits
        for value in compute(logits, targets, softcap=softcap):
            assert is_undefined(value[1])
        assert gradient(compute, logits, targets, softcap=softcap)[1].isnan().any()


def test_a_row_of_minus_infinity_only_gives_nan(compute):
    logits, targets = rows()
    logits[1] = -torch.inf
    for value in compute(logits, targets):
        assert is_undefined(value[1])
        assert value[[0, 2, 3]].isfinite().all()


@pytest.mark.parametrize("field", FIELDS)
def test_a_row_of_minus_infinity_gives_nan_in_a_field_asked_for_alone(field, backend):
    logits, targets = rows()
    logits[1] = -torch.inf
    value = getattr(token_stats(logits, targets, outputs=(field,), backend=backend), field)
    assert is_undefined(value[1])


@pytest.mark.parametrize("count", [1, 30])
def test_the_lowest_finite_value_is_inside_the_support(count, backend):
    logits, targets = rows()
    targets[1] = 36
    logits[1, :count] = torch.finfo(torch.float32).min
    stats, _ = check_against_reference(logits, targets, backend)
    assert stats.self_certainty[1] > 1e35
    assert stats.entropy[1].isfinite()


def test_many_columns_at_the_lowest_finite_value_count_for_nothing_beside_others(backend):
    # What a mask of the dtype's minimum leaves: some lanes see nothing else, others several before a number.
    logits = 2 * torch.randn(2, 1100, device=DEVICE)
    logits[0, :1030] = torch.finfo(torch.float32).min
    targets = torch.tensor([1050, 3], device=DEVICE)
    check_against_reference(
        logits, targets, backend, outputs=tuple(name for name in ROW_FIELDS if name != "self_certainty")
    )


def test_a_row_that_holds_the_lowest_finite_value_only_is_uniform(compute):
    logits, targets = rows()
    logits[1] = torch.finfo(torch.float32).min
    stats = compute(logits, targets)
    assert math.isclose(stats.entropy[1], math.log(37), rel_tol=1e-6)


def test_a_target_of_minus_100_is_a_masked_row(compute):
    logits, targets = rows()
    targets[1] = -100
    logits[1] = torch.nan
    for value in compute(logits, targets):
        assert (value[1] == 0).all()
    assert (gradient(compute, logits, targets)[1] == 0).all()


@ON_CPU
@pytest.mark.parametrize("bad", [-1, 37, 10**12])
def test_a_target_outside_the_vocabulary_is_an_index_error_that_names_the_position(bad):
    logits, targets = rows()
    targets = targets.view(2, 2)
    targets[1, 0] = bad
    for run in (reference.token_stats, token_stats):
        with pytest.raises(IndexError, match=rf"targets\[1, 0\] is {bad}; expected an id in \[0, 37\)"):
            run(logits.view(2, 2, 37), targets)


@pytest.mark.parametrize("bad", [-1, 37, 10**12])
def test_the_kernels_answer_a_target_outside_the_vocabulary_with_nan_in_that_row(bad):
    # What a GPU does, where raising would need a synchronisation. The interpreter runs the same kernels.
    logits, targets = rows()
    targets[1] = bad
    stats = token_stats(logits, targets, backend="triton", outputs=ROW_FIELDS)
    assert stats.logprob[1].isnan()
    assert stats.target_rank[1] == -1
    assert stats.logprob[[0, 2, 3]].isfinite().all()
    assert stats.entropy.isfinite().all()
    logits.requires_grad_()
    token_stats(logits, targets, backend="triton").logprob[[0, 1]].sum().backward()
    assert logits.grad[1].isnan().all()
    assert logits.grad[[0, 2, 3]].isfinite().all()


NO_TEMPERATURES = (-1.0, 0.0, math.inf, math.nan, 1e-60, 1e60)


@ON_CPU
@pytest.mark.parametrize("bad", NO_TEMPERATURES)
def test_a_row_temperature_that_a_number_could_not_be_is_an_error_that_names_the_position(bad):
    logits, targets = rows()
    temperature = torch.tensor([1.0, 1.0, bad, 1.0], dtype=torch.float64)
    for backend in ("torch", None):
        with pytest.raises(
            ValueError, match=r"^temperature\[2\] is .*; expected a positive number that float32 can hold"
        ):
            token_stats(logits, targets, temperature=temperature, backend=backend)
    masked = targets.where(torch.arange(4) != 2, -100)
    assert token_stats(logits, masked, temperature=temperature).logprob.isfinite().all()


def test_on_a_gpu_such_a_temperature_makes_nan_of_its_row_alone():
    # The Triton backend is what serves there, and answers alike where it is interpreted.
    logits, targets = rows(num_rows=len(NO_TEMPERATURES) + 2)
    temperature = torch.tensor([*NO_TEMPERATURES, 0.7, math.nan], dtype=torch.float64, device=DEVICE)
    targets[-1] = -100
    stats = token_stats(
        logits.requires_grad_(), targets, temperature=temperature, outputs=ROW_FIELDS, backend="triton"
    )  # fmt: skip
    for value in present(stats):
        assert is_undefined(value[:-2])
        assert value[-2:].isfinite().all()
    stats.entropy.sum().backward()
    assert logits.grad[:-2].isnan().all()
    assert logits.grad[-2].isfinite().all()
    assert not logits.grad[-1].any()


def test_a_single_column_is_certain(compute):
    logits, targets = rows(num_columns=1)
    stats = compute(logits, targets)
    for name, expected in (("logprob", 0), ("entropy", 0), ("self_certainty", 0), ("sum_sq_probs", 1)):
        assert torch.allclose(getattr(stats, name), torch.tensor(float(expected), device=DEVICE), atol=1e-6)
    assert torch.allclose(stats.top_probs, torch.tensor([1.0, 0.0], device=DEVICE))
