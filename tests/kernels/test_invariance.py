"""A row's bits do not depend on its company, its place, its address, or how the launch divides the work."""

import pytest
import torch

from comparison import DEVICE, mostly_interpreted, random_targets
from rlif_kernels import token_stats
from rlif_kernels.backends.triton import launches
from rlif_kernels.stats import FIELDS, TOP_FIELDS

# Below, across and far beyond one chunk (16384 columns of float32, 32768 of bfloat16).
SIZES = mostly_interpreted(37, 5003, 40009, fast=(37, 5003))


def bits(logits, targets, backend, **options):
    """All fields and the gradient of a fixed mixture of them, per row."""
    logits = logits.detach().requires_grad_()
    stats = token_stats(logits, targets, outputs=FIELDS, top_logprobs=3, backend=backend, **options)
    mixture = 0.3 * stats.logprob + 0.5 * stats.entropy - 0.7 * stats.self_certainty + 0.2 * stats.sum_sq_probs
    mixture.sum().backward()
    return [*stats, logits.grad]


def assert_same_bits(actual, expected):
    for name, a, b in zip((*FIELDS, "gradient"), actual, expected, strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("num_columns", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_alone_has_the_bits_that_it_has_in_a_batch(num_columns, dtype, backend):
    logits = (3 * torch.randn(5, num_columns, device=DEVICE)).to(dtype)
    targets = random_targets(logits)
    batch = bits(logits, targets, backend)
    for i in (0, 2, 4):
        alone = bits(logits[i : i + 1].clone(), targets[i : i + 1], backend)
        assert_same_bits(alone, [value[i : i + 1] for value in batch])


@pytest.mark.parametrize("num_columns", SIZES)
def test_the_order_of_the_rows_changes_no_bit(num_columns, backend):
    logits = 3 * torch.randn(5, num_columns, device=DEVICE)
    targets = random_targets(logits)
    order = torch.randperm(5)
    assert_same_bits(
        bits(logits[order], targets[order], backend), [value[order] for value in bits(logits, targets, backend)]
    )


@pytest.mark.parametrize("num_columns", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_address_of_a_row_changes_no_bit(num_columns, dtype, backend):
    storage = (3 * torch.randn(3, num_columns + 16, device=DEVICE)).to(dtype)
    shifted = storage[:, 1 : num_columns + 1]
    targets = random_targets(shifted)
    assert_same_bits(bits(shifted, targets, backend), bits(shifted.clone(), targets, backend))


def test_masked_neighbours_change_no_bit(backend):
    logits = 3 * torch.randn(6, 5003, device=DEVICE)
    targets = random_targets(logits)
    mask = torch.tensor([True, False, True, True, False, True], device=DEVICE)
    with_mask, without = bits(logits, targets, backend, mask=mask), bits(logits, targets, backend)
    assert_same_bits([value[mask] for value in with_mask], [value[mask] for value in without])


@pytest.mark.parametrize("backend", ["triton"])
@pytest.mark.parametrize("slices", mostly_interpreted(1, 2, 4, fast=(4,)))
@pytest.mark.parametrize(
    ("dtype", "special"),
    [  # special columns are found in the float32 that every dtype is read as
        (torch.float32, None),
        pytest.param(torch.bfloat16, None, marks=pytest.mark.slow),
        pytest.param(torch.float32, -torch.inf, marks=pytest.mark.slow),
        pytest.param(torch.float32, torch.nan, marks=pytest.mark.slow),
    ],
)
def test_splitting_a_row_over_programs_changes_no_bit(special, dtype, slices, backend):
    num_columns = 20001 if dtype == torch.float32 else 40001  # two chunks, the last one not whole
    logits = (3 * torch.randn(3, num_columns, device=DEVICE)).to(dtype)
    targets = random_targets(logits)
    if special is not None:
        logits[1, 77] = special
    results = []
    for count in (0, slices):
        with launches.override("forward_all", slices=count):
            results.append([value.nan_to_num(12345.0) for value in bits(logits, targets, backend)])
    assert_same_bits(*results)


@pytest.mark.slow_interpreted
@pytest.mark.parametrize("backend", ["triton"])
def test_splitting_a_row_with_a_softcap_changes_no_bit(backend):
    logits = 3 * torch.randn(2, 20001, device=DEVICE)
    logits[0, 5], logits[1, 20000] = 40.0, -40.0  # beyond the short form of tanh, in one chunk of two
    targets = random_targets(logits)
    results = []
    for slices in (0, 1, 4):
        with launches.override("forward_all", slices=slices):
            results.append(bits(logits, targets, backend, softcap=30.0))
    assert_same_bits(results[1], results[0])
    assert_same_bits(results[2], results[0])


@pytest.mark.parametrize("backend", ["triton"])
@pytest.mark.parametrize(
    "choices",
    mostly_interpreted(
        {"num_stages": 3}, {"unroll": 2, "num_warps": 8}, {"load": "evict_last"}, fast=({"unroll": 2, "num_warps": 8},)
    ),
)
def test_the_choices_of_a_launch_change_no_bit(choices, backend):
    logits = 3 * torch.randn(2, 5003, device=DEVICE)
    targets = random_targets(logits)
    expected = bits(logits, targets, backend)
    with launches.override("forward_all", **choices), launches.override("backward", block_bytes=4096, tiles=2):
        assert_same_bits(bits(logits, targets, backend), expected)


@pytest.mark.slow_interpreted
def test_special_neighbours_and_threads_change_no_bit_of_a_long_special_row(backend):
    logits = 3 * torch.randn(4, 140001, device=DEVICE)
    logits[:, 5] = -torch.inf
    targets = random_targets(logits)
    expected = token_stats(logits, targets, backend=backend).self_certainty
    logits[1::2, 5] = 0
    threads = torch.get_num_threads()
    try:
        for count in (1,) if backend == "triton" else (1, 2, 3):  # Triton has no threads
            torch.set_num_threads(count)
            assert torch.equal(token_stats(logits, targets, backend=backend).self_certainty[::2], expected[::2])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.slow_interpreted
def test_two_runs_have_the_same_bits(backend):
    logits = 3 * torch.randn(3, 40009, device=DEVICE)
    targets = random_targets(logits)
    assert_same_bits(bits(logits, targets, backend), bits(logits, targets, backend))


@pytest.mark.slow_interpreted
def test_the_fields_asked_for_change_no_bit_of_each_other(backend):
    logits = 3 * torch.randn(5, 5003, device=DEVICE)
    targets = random_targets(logits)
    together = token_stats(logits, targets, outputs=FIELDS, top_logprobs=3, backend=backend)
    for name in FIELDS:
        top = 3 if name in TOP_FIELDS else None
        alone = token_stats(logits, targets, outputs=(name,), top_logprobs=top, backend=backend)
        assert torch.equal(getattr(alone, name), getattr(together, name)), name
