"""What only a device can show: memory, synchronisation, streams. The other tests run there as they are (`-m gpu`)."""

import pytest
import torch

from rlif_kernels import token_stats
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
