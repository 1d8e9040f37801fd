"""What a group of one process exchanges for a sharded vocabulary: how often, and how many numbers a row."""

import math

import pytest
import torch
import torch.distributed as dist

from comparison import SUM_FIELDS
from rlif_kernels import (
    linear_grpo_loss,
    linear_token_stats,
    token_stats,
)
from rlif_kernels.stats import DEFAULT_OUTPUTS, FIELDS

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch was built without torch.distributed")


@pytest.fixture
def group(tmp_path):
    """Of this process alone: what it brings to a collective is the same in any company."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield dist.group.WORLD
    dist.destroy_process_group()


def test_the_merge_of_one_slice_is_that_slice(group):
    logits = 3 * torch.randn(4, 50)
    targets = torch.randint(50, (4,))
    alone = token_stats(logits, targets, outputs=FIELDS, top_logprobs=4)
    merged = token_stats(logits, targets, outputs=FIELDS, top_logprobs=4, group=group)
    for value, expected in zip(merged, alone, strict=True):
        assert math.isclose((value - expected).abs().max(), 0, abs_tol=1e-6)


SLICE_SIZE = 8  # bytes: a rank says once how many columns it has
# float64 numbers: three of every row, three of the target, one of each other field, two of `top_probs`; of `argmax` its
# logit and the columns of the slice as well, and of `top_ids` one of 20 ids and logits each.
ROWS = {
    ("logprob",): 6 * 8,
    DEFAULT_OUTPUTS: 8 * 8,
    SUM_FIELDS: 12 * 8,
    (*SUM_FIELDS, "argmax"): 15 * 8,
    ("logprob", "top_logprobs"): (6 + 1 + 60) * 8,
}
ROW = ROWS[DEFAULT_OUTPUTS]


@pytest.fixture
def exchanged(monkeypatch):
    """Call a function: its result, the bytes that this process brought to all-gathers in it, and to all-reduces."""
    brought: dict[str, list[int]] = {"all_gather": [], "all_reduce": []}
    all_gather, all_reduce = dist.all_gather, dist.all_reduce

    def counted_gather(gathered, own, **options):
        brought["all_gather"].append(own.nbytes)
        return all_gather(gathered, own, **options)

    def counted_reduce(value, **options):
        brought["all_reduce"].append(value.nbytes)
        return all_reduce(value, **options)

    monkeypatch.setattr(dist, "all_gather", counted_gather)
    monkeypatch.setattr(dist, "all_reduce", counted_reduce)

    def call(function, *arguments, **options):
        for sizes in brought.values():
            sizes.clear()
        result = function(*arguments, **options)
        return result, [*brought["all_gather"]], [*brought["all_reduce"]]

    return call


@pytest.mark.parametrize(
    "outputs", ROWS, ids=["one field", "the default fields", "all sums", "the largest too", "the 20 largest"]
)
def test_a_forward_gathers_a_few_numbers_a_row_and_the_backward_nothing(outputs, group, exchanged):
    logits, targets = torch.randn(3, 4, 50, requires_grad=True), torch.arange(12).view(3, 4)
    stats, *forward = exchanged(token_stats, logits, targets, outputs=outputs, group=group)
    assert forward == [[SLICE_SIZE, 12 * ROWS[outputs]], []]
    assert exchanged(stats.logprob.sum().backward) == (None, [], [])


@pytest.mark.parametrize("function", [linear_token_stats, linear_grpo_loss])
@pytest.mark.parametrize("tile_bytes", [1 << 29, 1000])
def test_a_head_gathers_no_more_and_sums_the_gradient_of_the_hidden_states_once(function, tile_bytes, group, exchanged):
    hidden, weight = torch.randn(3, 4, 16, requires_grad=True), torch.randn(50, 16, requires_grad=True)
    targets = torch.arange(12).view(3, 4)

    def step():
        if function is linear_grpo_loss:
            loss = linear_grpo_loss(hidden, weight, targets, torch.ones(3), tile_bytes=tile_bytes, group=group).loss
        else:
            loss = linear_token_stats(hidden, weight, targets, tile_bytes=tile_bytes, group=group).logprob.sum()
        loss.backward()

    _, gathered, reduced = exchanged(step)
    assert sum(gathered) == SLICE_SIZE + 12 * ROW
    assert (len(gathered) > 2) == (tile_bytes == 1000)  # one for each tile of rows
    assert reduced == [hidden.nbytes]


@pytest.mark.parametrize("function", [linear_token_stats, linear_grpo_loss])
def test_float32_logits_of_a_sharded_head_are_those_of_an_undivided_one(function, group):
    hidden, weight = torch.randn(3, 4, 16).bfloat16(), torch.randn(50, 16).bfloat16()
    targets, advantages = torch.arange(12).view(3, 4), torch.randn(3)
    results = []
    for slices in (group, None):
        leaves = [tensor.clone().requires_grad_() for tensor in (hidden, weight)]
        options = {"tile_bytes": 1000, "group": slices, "logits_dtype": torch.float32}
        if function is linear_grpo_loss:
            result = linear_grpo_loss(*leaves, targets, advantages, **options)
            result.loss.backward()
        else:
            result = linear_token_stats(*leaves, targets, **options)
            result.logprob.sum().backward()
        results.append((result.logprob.detach(), *(leaf.grad for leaf in leaves)))
    for ours, theirs in zip(*results, strict=True):
        # Values to float32's rounding, gradients to that of their dtype.
        torch.testing.assert_close(ours, theirs)
