"""Loads by tensor descriptors give the bits of plain ones, where rows start on 16 bytes and where they do not."""

from contextlib import ExitStack

import pytest
import torch
from triton.runtime import _allocation

from comparison import DEVICE, mostly_interpreted, random_targets
from rlif_kernels import grpo_loss, token_stats
from rlif_kernels.backends.triton import lanes, launches, with_memory
from rlif_kernels.backends.triton.launches import DESCRIPTOR

# More than a tile of 4096 columns of bfloat16, and then some that are no whole tile.
ALIGNED, UNALIGNED = 5000, 5003


@pytest.fixture
def described(monkeypatch):
    """Loads that go by a descriptor, counted where kernels are interpreted."""
    calls, load = [], lanes.load_described_pairs

    def counted(*arguments):
        calls.append(1)
        return load(*arguments)

    if DEVICE == "cpu":
        monkeypatch.setattr(lanes, "load_described_pairs", counted)
    return calls


def plainly_and_described(kernels, call, **choices):
    """What a call gives by the table's launches, and what it gives with descriptors in the place of their loads."""
    results = []
    for more in ({}, {"load": DESCRIPTOR, "num_stages": 3}):
        with ExitStack() as stack:
            for kernel in kernels:
                stack.enter_context(launches.override(kernel, **choices, **more))
            results.append([value for value in call() if value is not None])
    return results


@pytest.mark.parametrize("num_columns", [ALIGNED, UNALIGNED])
@pytest.mark.parametrize("slices", [0, 4])
@pytest.mark.parametrize(
    "dtype",
    mostly_interpreted(torch.float32, torch.bfloat16, torch.float16, fast=(torch.bfloat16,)),
)
def test_a_forward_has_the_bits_of_plain_loads(dtype, slices, num_columns, described):
    logits = (3 * torch.randn(3, num_columns, device=DEVICE)).to(dtype)
    logits[1, 77] = -torch.inf
    targets = random_targets(logits)
    expected, actual = plainly_and_described(
        ("forward", "forward_part"), lambda: token_stats(logits, targets, backend="triton"), slices=slices
    )
    for value, other in zip(actual, expected, strict=True):
        assert torch.equal(value, other)
    assert DEVICE != "cpu" or bool(described) == (num_columns == ALIGNED)


@pytest.mark.parametrize("num_columns", mostly_interpreted(ALIGNED, UNALIGNED, fast=(ALIGNED,)))
def test_a_fused_loss_has_the_bits_of_plain_loads(num_columns, described):
    logits = (3 * torch.randn(1, 2, num_columns, device=DEVICE)).bfloat16()
    targets, advantages = random_targets(logits), torch.ones(1, device=DEVICE)

    def call():
        leaf = logits.detach().requires_grad_()
        result = grpo_loss(leaf, targets, advantages, backend="triton")
        result.loss.backward()
        return [*result, leaf.grad]

    with launches.override("grpo", path="fused"):
        expected, actual = plainly_and_described(("grpo", "grpo_short"), call)
    for value, other in zip(actual, expected, strict=True):
        assert torch.equal(value, other)
    assert DEVICE != "cpu" or bool(described) == (num_columns == ALIGNED)


def test_memory_for_descriptors_comes_from_torch_and_the_callers_allocator_stays():
    given = []

    def kernel(*arguments, **constants):
        given.append((arguments, constants, _allocation._allocator.get()(256, 128, None)))

    before = _allocation._allocator.get()
    launch = launches.Launch(4, 128, load=DESCRIPTOR)
    with_memory(kernel, launch, torch.zeros(1, device=DEVICE))(7, K=8)
    ((arguments, constants, memory),) = given
    assert (arguments, constants) == ((7,), {"K": 8})
    assert (memory.nbytes, memory.device.type) == (256, DEVICE)
    assert memory.data_ptr() % 16 == 0
    assert _allocation._allocator.get() is before
    assert with_memory(kernel, launches.Launch(4, 128), torch.zeros(1)) is kernel
