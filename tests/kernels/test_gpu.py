"""What only a device can show: memory, synchronisation, streams. The other tests run there as they are (`-m gpu`)."""

import pytest
import torch

from rlif_kernels import grpo_loss, linear_grpo_loss, linear_token_stats, token_stats
from rlif_kernels.stats import FIELDS

pytestmark = pytest.mark.gpu


def inputs(num_rows=256, num_columns=128256, dtype=torch.bfloat16):
    logits = torch.randn(num_rows, num_columns, device="cuda", dtype=dtype).requires_grad_()
    return logits, torch.randint(num_columns, (num_rows,), device="cuda")


def peak_above_inputs(logits, targets, **options):
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    stats = token_stats(logits, targets, **options)
    (stats.logprob + stats.entropy + stats.self_certainty).sum().backward()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def test_forward_and_backward_need_no_memory_but_the_gradient():
    logits, targets = inputs()
    assert peak_above_inputs(logits, targets) <= 1.01 * logits.nbytes


def test_in_place_they_need_none():
    leaf, targets = inputs()
    logits = leaf * 1
    leaf.grad = torch.zeros_like(leaf)  # the gradient of `* 1` is the leaf's, which is not ours to avoid
    assert peak_above_inputs(logits, targets, inplace_backward=True) <= 1.01 * leaf.nbytes


def test_nothing_waits_for_the_device():
    logits, targets = inputs(64)
    token_stats(logits, targets, outputs=FIELDS).logprob.sum().backward()  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        stats = token_stats(logits, targets, outputs=FIELDS, temperature=torch.ones(64, device="cuda"))
        (stats.logprob + stats.entropy + stats.self_certainty).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_work_goes_to_the_current_stream():
    logits, targets = inputs(64)
    expected = token_stats(logits, targets).entropy.clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        actual = token_stats(logits, targets).entropy
    stream.synchronize()
    assert torch.equal(actual, expected)


def test_a_graph_can_capture_it():
    logits, targets = inputs(64)
    with torch.no_grad():
        expected = token_stats(logits, targets).entropy.clone()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = token_stats(logits, targets).entropy
        captured.zero_()
        graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(captured, expected)


def test_the_loss_waits_for_nothing_and_needs_no_memory_in_place():
    leaf, targets = inputs(1024)
    targets, advantages = targets.view(8, 128), torch.randn(8, device="cuda")

    def step():
        logits = (leaf * 1).view(8, 128, -1)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        torch.cuda.set_sync_debug_mode("error")
        try:
            loss = grpo_loss(logits, targets, advantages, inplace_backward=True).loss
        finally:
            torch.cuda.set_sync_debug_mode("default")
        peak = torch.cuda.max_memory_allocated() - before
        loss.backward()
        return peak

    step()  # compiles
    assert step() <= 0.01 * leaf.nbytes


@pytest.mark.parametrize("function", [linear_grpo_loss, linear_token_stats])
def test_a_head_needs_one_tile_beyond_inputs_and_gradients(function):
    # The weight's half-precision gradient is summed in float32, over more tiles than one, by the loss.
    dtype = torch.float32
    hidden = torch.randn(8, 512, 512, device="cuda", dtype=dtype).requires_grad_()
    weight = torch.randn(128256, 512, device="cuda", dtype=dtype).requires_grad_()
    targets = torch.randint(128256, (8, 512), device="cuda")
    tile_bytes = 128 << 20

    def step():
        hidden.grad = weight.grad = None
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        if function is linear_grpo_loss:
            linear_grpo_loss(
                hidden, weight, targets, torch.ones(8, device="cuda"), tile_bytes=tile_bytes
            ).loss.backward()
        else:
            linear_token_stats(hidden, weight, targets, tile_bytes=tile_bytes).logprob.sum().backward()
        return torch.cuda.max_memory_allocated() - before

    step()  # compiles, and the product takes its workspace
    assert step() <= tile_bytes + hidden.nbytes + weight.nbytes + (8 << 20)  # and per-token vectors
