"""Values and gradients of every field, in both backends, against the float64 reference."""

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from comparison import (
    DEVICE,
    ROW_FIELDS,
    check_against_reference,
    mostly_interpreted,
    present,
    random_targets,
    upstream_gradients,
    weighted_sum,
)
from rlif_kernels import token_stats
from rlif_kernels.functional import DIFFERENTIABLE, shape_of
from rlif_kernels.stats import FIELDS

# One lane of the Triton kernels takes 4 (float32) or 8 columns, a tile 2048 or 4096, a chunk 8 tiles; a block of the
# torch backend takes 2^18 elements. The sizes lie on those edges and beside them; primes fall on none.
EDGE_SIZES = [1, 2, 3, 7, 8, 9, 31, 2047, 2048, 2049, 4095, 4096, 4097, 16384, 16385, 32768, 32771, 50257]
# A lane, a tile and a chunk that are just full, of either width, and the first column after them.
SLOW_SIZES = (8, 2048, 4096, 4097, 16384, 32768, 32771)


@pytest.mark.parametrize("num_columns", mostly_interpreted(*EDGE_SIZES, fast=(1, 9, 2049, 16385), slow=SLOW_SIZES))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_vocabulary_size_matches_the_reference(num_columns, dtype, backend):
    logits = (3 * torch.randn(3, num_columns, device=DEVICE)).to(dtype)
    check_against_reference(logits, random_targets(logits), backend)


@pytest.mark.parametrize("num_columns", mostly_interpreted(151936, 262144, fast=(), slow=(262144,)))
def test_the_largest_vocabularies_match_the_reference(num_columns, backend):
    logits = 3 * torch.randn(2, num_columns, device=DEVICE)
    check_against_reference(logits, random_targets(logits), backend)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_dtype_matches_the_reference_of_its_rounded_logits(dtype, backend):
    logits = (4 * torch.randn(4, 1000, device=DEVICE)).to(dtype)
    check_against_reference(logits, random_targets(logits), backend)


@pytest.mark.parametrize("scale", mostly_interpreted(0.01, 0.1, 1.0, 10.0, 50.0, fast=(0.01, 50.0), slow=(1.0,)))
def test_any_logit_scale_matches_the_reference(scale, backend):
    logits = scale * torch.randn(4, 5003, device=DEVICE)
    check_against_reference(logits, random_targets(logits), backend)


@pytest.mark.parametrize("shift", mostly_interpreted(-1e4, 1e4, fast=(1e4,)))
@pytest.mark.parametrize("temperature", mostly_interpreted(1.0, 0.7, fast=(0.7,)))
@pytest.mark.parametrize("outside", [False, True], ids=["", "with columns of -inf"])
def test_shifted_logits_match_the_reference_of_the_shifted_logits(shift, temperature, outside, backend):
    logits = 3 * torch.randn(4, 5003, device=DEVICE) + shift
    if outside:
        logits[:, 11] = -torch.inf
    check_against_reference(logits, random_targets(logits), backend, temperature=temperature)


@pytest.mark.parametrize("shift", mostly_interpreted(2.0**13, -(2.0**13), fast=(2.0**13,)))
def test_a_shift_that_rounds_no_logit_changes_the_entropy_by_nothing_but_the_contract_allows(shift, backend):
    # Multiples of 2^-8 stay exact beside 2^13 in float32, so that the two inputs describe one distribution.
    logits = (3 * torch.randn(4, 1000, device=DEVICE) * 256).round() / 256
    targets = random_targets(logits)
    plain = token_stats(logits, targets, backend=backend)
    shifted = token_stats(logits + shift, targets, backend=backend)
    for value, other in zip(plain[:3], shifted[:3], strict=True):
        torch.testing.assert_close(value, other, atol=4e-6, rtol=4e-6)


def test_uniform_rows_have_full_entropy_and_no_self_certainty(backend):
    logits = torch.full((3, 7919), 2.5, device=DEVICE)
    stats, _ = check_against_reference(logits, random_targets(logits), backend)
    assert stats.self_certainty.abs().max() <= 1e-6
    assert torch.allclose(stats.entropy, torch.tensor(7919.0).log(), atol=1e-5)


def test_one_hot_rows_have_no_entropy_and_the_gradient_of_a_certain_token(backend):
    logits = torch.zeros(3, 7919, device=DEVICE)
    logits[:, 17] = 80.0
    stats, _ = check_against_reference(logits, torch.full((3,), 17, device=DEVICE), backend)
    assert stats.entropy.abs().max() <= 4e-6


@pytest.mark.parametrize("lead", mostly_interpreted(8.0, 11.0, 14.25, fast=(14.25,)))
@pytest.mark.parametrize("num_columns", mostly_interpreted(2049, 70001, fast=(2049,)))
def test_one_large_term_before_many_small_ones_does_not_swallow_them(lead, num_columns, backend):
    # Sums that start near 1 round each of the small terms, all in the same direction.
    logits = 1e-3 * torch.randn(2, num_columns, device=DEVICE)
    logits[:, 0] = lead
    check_against_reference(logits, random_targets(logits), backend)


@pytest.mark.parametrize("temperature", mostly_interpreted(0.7, 1.0, fast=(0.7,)))
@pytest.mark.parametrize("low", [torch.finfo(torch.float32).min, -1e38, -1e37])
def test_gradients_beside_a_huge_negative_logit_stay_finite(low, temperature, backend):
    logits = 2 * torch.randn(3, 37, device=DEVICE)
    logits[1, 3] = low
    targets = torch.tensor([0, 1, 2], device=DEVICE)
    outputs = ("logprob", "entropy", "logsumexp", "sum_sq_probs", "varentropy")
    check_against_reference(logits, targets, backend, outputs=outputs, temperature=temperature)
    logits.requires_grad_()
    outputs = ("entropy", "self_certainty", "varentropy")
    stats = token_stats(logits, targets, outputs=outputs, temperature=temperature, backend=backend)
    (1e4 * (stats.entropy + stats.varentropy) + stats.self_certainty.clamp(max=1)).sum().backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_alone_matches_the_reference_and_the_others_are_none(field, backend):
    logits = 3 * torch.randn(4, 300, device=DEVICE)
    stats, _ = check_against_reference(logits, random_targets(logits), backend, outputs=(field,))
    assert [name for name in FIELDS if getattr(stats, name) is not None] == [field]


@pytest.mark.parametrize("field", DIFFERENTIABLE)
def test_the_gradient_of_a_field_alone_matches_the_formula_in_the_docstring(field, backend):
    logits = (2 * torch.randn(5, 67, device=DEVICE)).requires_grad_()
    targets = random_targets(logits)
    getattr(token_stats(logits, targets, outputs=(field,), backend=backend), field).sum().backward()
    p = logits.detach().double().softmax(-1)
    entropy = -(p * p.log()).sum(-1, keepdim=True)
    u = p.log() + entropy
    formulas = {
        "logprob": torch.nn.functional.one_hot(targets, 67) - p,
        "entropy": -p * (p.log() + entropy),
        "self_certainty": p - 1 / 67,
        "logsumexp": p,
        "sum_sq_probs": 2 * p * (p - p.square().sum(-1, keepdim=True)),
        "varentropy": p * (u * (u + 2) - (p * u.square()).sum(-1, keepdim=True)),
    }
    torch.testing.assert_close(logits.grad.double(), formulas[field], atol=2e-6, rtol=0)  # the contract's bound


@pytest.mark.parametrize("temperature", mostly_interpreted(0.3, 0.7, 1.7, fast=(0.3,)))
def test_a_temperature_divides_the_logits(temperature, backend):
    logits = 2 * torch.randn(4, 300, device=DEVICE)
    check_against_reference(logits, random_targets(logits), backend, temperature=temperature)


def test_each_row_may_have_its_own_temperature(backend):
    logits = 2 * torch.randn(3, 4, 300, device=DEVICE)
    temperature = torch.rand(3, 4, device=DEVICE) + 0.5
    check_against_reference(logits, random_targets(logits), backend, temperature=temperature)


@pytest.mark.parametrize("softcap", mostly_interpreted(5.0, 30.0, fast=(5.0,)))
@pytest.mark.parametrize("temperature", mostly_interpreted(1.0, 0.8, fast=(0.8,)))
def test_a_softcap_comes_before_the_temperature(softcap, temperature, backend):
    logits = 10 * torch.randn(4, 300, device=DEVICE)
    logits[0] *= 1e-3  # near 0, where the exponential form of tanh cancels
    check_against_reference(logits, random_targets(logits), backend, softcap=softcap, temperature=temperature)


@pytest.mark.parametrize("spread", ["all small", "one large", "one large and negative", "many large"])
def test_a_softcap_is_as_exact_where_the_short_form_of_tanh_serves_as_where_it_does_not(spread, backend):
    logits = 4 * torch.randn(3, 700, device=DEVICE)
    if spread == "many large":
        logits *= 4
    elif spread != "all small":
        logits[1, 300] = -31.0 if "negative" in spread else 31.0
    check_against_reference(logits, random_targets(logits), backend, softcap=20.0)


@pytest.mark.parametrize("softcap", mostly_interpreted(1e-4, 2e4, fast=(2e4,)))
def test_a_softcap_of_any_size_is_exact(softcap, backend):
    # The tenth power of 1 / softcap is no float32.
    logits = softcap * torch.randn(3, 300, device=DEVICE)
    check_against_reference(logits, random_targets(logits), backend, softcap=softcap, temperature=softcap / 10)


def test_columns_beyond_vocab_size_are_never_read_and_get_no_gradient(backend):
    logits = 2 * torch.randn(4, 300, device=DEVICE)
    logits[:, 290:] = torch.nan
    _, gradient = check_against_reference(logits, random_targets(logits, 290), backend, vocab_size=290)
    assert (gradient[:, 290:] == 0).all()


def test_masked_rows_are_zero_without_being_read(backend):
    logits = 2 * torch.randn(3, 5, 300, device=DEVICE)
    mask = torch.rand(3, 5, device=DEVICE) < 0.5
    logits[~mask] = torch.nan
    targets = random_targets(logits).masked_fill(~mask, 10**9)  # not even its target is looked at
    stats, gradient = check_against_reference(logits, targets, backend, mask=mask)
    for value in present(stats):
        assert (value[~mask] == 0).all()
    assert (gradient[~mask] == 0).all()


def test_a_target_of_minus_100_is_a_masked_row(backend):
    logits = 2 * torch.randn(6, 300, device=DEVICE)
    targets = random_targets(logits)
    targets[::2] = -100
    stats, gradient = check_against_reference(logits, targets, backend)
    assert (stats.entropy[::2] == 0).all()
    assert (gradient[::2] == 0).all()


@pytest.mark.parametrize(
    "dtype",
    mostly_interpreted(torch.int64, torch.int32, torch.int16, torch.uint8, fast=(torch.int32,), slow=(torch.uint8,)),
)
def test_targets_may_have_any_integer_dtype(dtype, backend):
    logits = torch.randn(4, 100, device=DEVICE)
    targets = random_targets(logits)
    expected = token_stats(logits, targets, backend=backend)
    actual = token_stats(logits, targets.to(dtype), backend=backend)
    assert all(torch.equal(a, b) for a, b in zip(actual[:3], expected[:3], strict=True))


STRIDED = {
    "one row": lambda x: x[0, 0],
    "a slice that leaves out the last position": lambda x: x[:, :-1],
    "a slice that leaves out the first position": lambda x: x[:, 1:],
    "transposed leading dimensions": lambda x: x.transpose(0, 1),
    "a view that starts one element in": lambda x: x[..., 1:],
    "every other row": lambda x: x[:, ::2],
    "rows expanded over a new dimension": lambda x: x[None].expand(2, -1, -1, -1),
    "no rows": lambda x: x[:0],
}


FAST_VIEWS = ("one row", "transposed leading dimensions", "a view that starts one element in", "no rows")


@pytest.mark.parametrize("view", mostly_interpreted(*STRIDED, fast=FAST_VIEWS), ids=str)
def test_strided_logits_are_read_where_they_lie(view, backend):
    logits = STRIDED[view](3 * torch.randn(3, 6, 640, device=DEVICE))
    check_against_reference(logits, random_targets(logits), backend)


def test_offsets_beyond_32_bits_reach_the_right_rows(backend):
    # Rows 1.5 * 2^30 elements apart, in memory that is reserved but never touched in between. The stride is odd, so
    # that the rows start at different alignments.
    stride, num_columns = 3 * 2**29 + 1, 300
    storage = torch.empty(2 * stride + num_columns, dtype=torch.bfloat16, device=DEVICE)
    far = storage.as_strided((3, num_columns), (stride, 1))
    far.copy_(3 * torch.randn(3, num_columns))
    targets = random_targets(far)
    check_against_reference(far.clone(), targets, backend)
    torch.manual_seed(0)
    far_stats, far_gradient = bits_of(far, targets, backend)
    torch.manual_seed(0)
    near_stats, near_gradient = bits_of(far.clone(), targets, backend)
    for value, expected in zip((*present(far_stats), far_gradient), (*present(near_stats), near_gradient), strict=True):
        assert torch.equal(value, expected)


def bits_of(logits, targets, backend):
    logits = logits.detach().requires_grad_()
    stats = token_stats(logits, targets, outputs=ROW_FIELDS, backend=backend)
    weighted_sum(stats, upstream_gradients(targets.shape)).backward()
    return stats, logits.grad


def test_no_rows_give_empty_outputs_and_a_backward_that_works(backend):
    logits = torch.randn(0, 50, device=DEVICE, requires_grad=True)
    stats = token_stats(logits, torch.zeros(0, dtype=torch.long, device=DEVICE), outputs=FIELDS, backend=backend)
    of_rows = [(0, *shape_of(name)) for name in ROW_FIELDS]
    assert [tuple(value.shape) for value in stats] == [*of_rows, (0, 20), (0, 20), (0,), (0,)]
    stats.logprob.sum().backward()
    assert logits.grad.shape == (0, 50)


@pytest.mark.slow_interpreted
@settings(
    max_examples=20,
    deadline=None,  # the first example of a kind compiles or imports
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking through the interpreter takes minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_drawn_cases_match_the_reference(data, backend):
    # The interpreter takes a row at a time.
    dimensions = 2 if backend == "triton" and DEVICE == "cpu" else 3
    shape = data.draw(st.lists(st.integers(1, 3), min_size=0, max_size=dimensions), label="leading shape")
    num_columns = data.draw(st.integers(1, 700), label="V")
    dtypes = [torch.float32, torch.bfloat16, torch.float16]
    dtype = data.draw(st.sampled_from(dtypes), label="dtype")
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31), label="seed"))
    logits = torch.randn(*shape, num_columns, generator=generator) * data.draw(st.floats(0.01, 20), label="scale")
    logits = logits.to(DEVICE, dtype)
    outside = data.draw(st.floats(0, 0.5), label="share of -inf columns")
    logits[(torch.rand(logits.shape, generator=generator) < outside).to(DEVICE)] = -torch.inf
    options = {"temperature": data.draw(st.floats(0.3, 3), label="temperature")}
    if data.draw(st.booleans(), label="padded"):
        options["vocab_size"] = data.draw(st.integers(1, num_columns), label="vocab_size")
    if data.draw(st.booleans(), label="masked"):
        options["mask"] = (torch.rand(logits.shape[:-1], generator=generator) < 0.5).to(DEVICE)
    targets = random_targets(logits, options.get("vocab_size"), generator=generator)
    check_against_reference(logits, targets, backend, **options)
