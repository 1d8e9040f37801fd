"""The op among PyTorch's other machinery: autograd, torch.library, torch.compile, checkpointing, memory."""

import gc
import subprocess
import sys
import weakref

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import forked
from comparison import (
    DEVICE,
    ROW_FIELDS,
    mostly_interpreted,
    present,
    random_targets,
    upstream_gradients,
    weighted_sum,
)
from rlif_kernels import grpo_loss, sample_tokens, token_stats
from rlif_kernels.backends import c as cpu_backend
from rlif_kernels.functional import OP_FIELDS


def inputs(num_rows=4, num_columns=67):
    logits = (2 * torch.randn(num_rows, num_columns, device=DEVICE)).requires_grad_()
    return logits, random_targets(logits)


def test_opcheck_passes(backend):
    logits, targets = inputs()
    for outputs, top in (("logprob,entropy,self_certainty", 0), (",".join(OP_FIELDS), 3)):
        arguments = (logits, targets, None, None, 0.7, 0.0, 60, outputs, backend, "", False, top)
        torch.library.opcheck(torch.ops.rlif.token_stats, (arguments[0], targets.clamp(max=59), *arguments[2:]))


@pytest.mark.parametrize("dynamic", mostly_interpreted(False, True, fast=(True,)))
def test_torch_compile_traces_the_whole_graph(dynamic, backend):
    def loss(logits, targets):
        stats = token_stats(2 * logits, targets, temperature=0.9, backend=backend)
        return (stats.logprob * stats.entropy.detach() - stats.self_certainty).sum()

    torch.compiler.reset()  # each case counts its own recompilations
    # The eager compiler runs the captured graph as it is: what is tested is the capture, forward and backward.
    compiled = torch.compile(loss, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for num_rows in (3, 5):
        logits, targets = inputs(num_rows)
        (expected,) = torch.autograd.grad(loss(logits, targets), logits)
        (actual,) = torch.autograd.grad(compiled(logits, targets), logits)
        assert torch.equal(actual, expected)


def test_activation_checkpointing_recomputes_to_the_same_gradient(backend):
    logits, targets = inputs()
    weights = upstream_gradients(targets.shape)

    def loss(x):
        return weighted_sum(token_stats(3 * x, targets, outputs=ROW_FIELDS, backend=backend), weights)

    (expected,) = torch.autograd.grad(loss(logits), logits)
    (actual,) = torch.autograd.grad(checkpoint(loss, logits, use_reentrant=False), logits)
    assert torch.equal(actual, expected)


def test_saved_tensors_are_freed_with_the_graph(backend):
    logits, targets = inputs()
    computed = 2 * logits
    alive = weakref.ref(computed)
    stats = token_stats(computed, targets, backend=backend)
    del computed
    stats.logprob.sum().backward()
    del stats
    gc.collect()
    assert alive() is None


def test_results_may_be_written_to_in_place(backend):
    logits, targets = torch.randn(2, 3, 50, device=DEVICE), torch.randint(50, (2, 3), device=DEVICE)
    weight = torch.randn(2, 3, device=DEVICE)
    leaf = logits.clone().requires_grad_()
    stats = token_stats(leaf, targets, outputs=ROW_FIELDS, backend=backend)
    for name in ROW_FIELDS:
        getattr(stats, name)[0] = 0
    stats.logprob.mul_(weight)
    (stats.logprob + stats.entropy).sum().backward()

    expected = logits.clone().requires_grad_()
    stats = token_stats(expected, targets, backend=backend)
    (stats.logprob * weight + stats.entropy)[1].sum().backward()
    # The same upstream gradients, so the same bits.
    assert torch.equal(leaf.grad, expected.grad)


def test_negated_views_count_as_what_they_stand_for(backend):
    """PyTorch marks such views, the imaginary parts of conjugates, and leaves their memory as it was."""
    logits, targets = torch.randn(3, 50, device=DEVICE), torch.randint(50, (3,), device=DEVICE)
    temperature, uniform = torch.rand(3, device=DEVICE) + 0.5, torch.rand(3, dtype=torch.float64, device=DEVICE)
    results = []
    for view in (lambda value: torch._neg_view(-value), torch.clone):
        leaf = view(logits).requires_grad_()
        stats = token_stats(leaf, targets, temperature=view(temperature), backend=backend)
        stats.logprob.backward(view(temperature))
        losses = grpo_loss(view(logits), targets, view(temperature), view(temperature), backend=backend)
        drawn = sample_tokens(view(logits), view(uniform), outputs=("entropy",), backend=backend)
        results.append((*stats[:3], leaf.grad, losses.loss, drawn.token_ids, drawn.stats.entropy))
    for of_views, expected in zip(*results, strict=True):
        assert torch.equal(of_views, expected)


def test_results_that_nobody_differentiates_need_no_backward(backend):
    logits, targets = inputs()
    with torch.no_grad():
        assert not token_stats(logits, targets, backend=backend).logprob.requires_grad
    stats = token_stats(logits, targets, outputs=("logprob", "top_probs"), backend=backend)
    assert stats.logprob.requires_grad
    assert not stats.top_probs.requires_grad


def test_inplace_backward_writes_the_same_gradient_into_the_logits_storage(backend):
    logits, targets = inputs()
    weights = upstream_gradients(targets.shape)
    plain = (2 * logits).detach().requires_grad_()
    weighted_sum(token_stats(plain, targets, outputs=ROW_FIELDS, backend=backend), weights).backward()

    computed = 2 * logits
    storage = computed.data_ptr()
    seen = []
    computed.register_hook(seen.append)
    weighted_sum(
        token_stats(computed, targets, outputs=ROW_FIELDS, inplace_backward=True, backend=backend), weights
    ).backward()
    assert seen[0].data_ptr() == storage
    assert torch.equal(seen[0], plain.grad)
    assert torch.equal(logits.grad, 2 * plain.grad)


def test_inplace_backward_refuses_a_second_backward(backend):
    logits, targets = inputs()
    loss = token_stats(2 * logits, targets, inplace_backward=True, backend=backend).logprob.sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_inplace_backward_refuses_to_corrupt_what_another_op_saved(backend):
    logits, targets = inputs()
    computed = 2 * logits
    squares = computed.square().sum()  # saves `computed` for a backward that runs after ours
    loss = token_stats(computed, targets, inplace_backward=True, backend=backend).logprob.sum()
    loss.backward()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        squares.backward()


def test_inplace_backward_refuses_a_leaf_and_its_views(backend):
    logits, targets = inputs()
    with pytest.raises(ValueError, match="got a leaf that requires grad"):
        token_stats(logits, targets, inplace_backward=True, backend=backend)
    with pytest.raises(ValueError, match="got a view of a leaf that requires grad"):
        token_stats(logits.view(2, 2, -1), targets.view(2, 2), inplace_backward=True, backend=backend)


def test_inplace_backward_refuses_elements_that_share_memory(backend):
    logits, targets = inputs()
    computed = 2 * logits
    for view, strides in (
        (computed[:1].expand(4, -1), r"\(0, 1\)"),
        (computed.view(-1).unfold(0, 37, 1)[:4], r"\(1, 1\)"),
    ):
        with pytest.raises(ValueError, match=f"got an expanded or overlapping view with strides {strides}"):
            token_stats(view, targets % 37, inplace_backward=True, backend=backend)
    token_stats(computed.view(2, 2, -1).transpose(0, 1), targets.view(2, 2), inplace_backward=True, backend=backend)


def test_a_second_derivative_is_refused(backend):
    logits, targets = inputs()
    weights = torch.randn(4, device=DEVICE, requires_grad=True)
    for inplace in (False, True):
        loss = (weights * token_stats(2 * logits, targets, inplace_backward=inplace, backend=backend).logprob).sum()
        with pytest.raises(RuntimeError, match="token_stats has no second derivative"):
            torch.autograd.grad(loss, logits, create_graph=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_default_dtype_changes_nothing(dtype, backend):
    logits, targets = inputs()
    expected = token_stats(logits, targets, outputs=ROW_FIELDS, backend=backend)
    torch.set_default_dtype(dtype)
    try:
        actual = token_stats(logits, targets, outputs=ROW_FIELDS, backend=backend)
    finally:
        torch.set_default_dtype(torch.float32)
    for value, other in zip(present(actual), present(expected), strict=True):
        assert torch.equal(value, other)


@pytest.mark.skipif(cpu_backend.library() is None, reason="no C compiler")
def test_a_forked_process_computes_too():
    # As a DataLoader's workers do, after the parent has started its threads.
    program = """
import os, torch
from rlif_kernels import token_stats
torch.set_num_threads(2)
logits, targets = torch.zeros(64, 4096), torch.zeros(64, dtype=torch.long)
entropy = token_stats(logits, targets, backend="cpu").entropy
child = os.fork()
if child == 0:
    os._exit(not torch.equal(token_stats(logits, targets, backend="cpu").entropy, entropy))
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    forked.run(program)


def test_importing_the_package_loads_neither_the_compiler_nor_triton():
    # Each takes as long to import as torch; and kernels that are decorated by accident cannot be compiled for a GPU.
    program = """
import sys
import rlif_kernels
print([name for name in ("torch._dynamo", "triton") if name in sys.modules])
"""
    loaded = subprocess.run([sys.executable, "-c", program], check=True, timeout=60, capture_output=True, text=True)
    assert loaded.stdout.strip() == "[]"
