"""What the benchmarks of the head compare is one and the same loss, and memory is what was allocated in between."""

import sys

import pytest
import torch
import torch.nn.functional as F

from benchmarks import memory
from benchmarks.heads import ON_ANY_DEVICE, dapo_loss, exact, forward_backward, largest_error, make_problem


def test_the_truth_in_blocks_is_plain_autograd_in_float64():
    problem = make_problem(3, 5, 200, 16, torch.float32)
    hidden, weight = (leaf.detach().double().requires_grad_() for leaf in (problem.hidden, problem.weight))
    logp = F.linear(hidden, weight).log_softmax(-1)
    loss = dapo_loss(logp.gather(-1, problem.targets[..., None])[..., 0], problem)
    loss.backward()
    for value, expected in zip(exact(problem, rows=4), (loss.detach(), hidden.grad, weight.grad), strict=True):
        # Two orders of addition in float64, of terms of order 1.
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", [name for name in ON_ANY_DEVICE if name != "compiled naive"])
def test_every_implementation_that_is_timed_computes_the_same_loss_and_gradients(name):
    try:
        implementation = ON_ANY_DEVICE[name]()
    except ImportError as missing:
        pytest.skip(f"{name}: {missing}")
    problem = make_problem(3, 5, 200, 16, torch.float32)
    error = largest_error(problem, forward_backward(implementation, problem), exact(problem))
    assert error < 2e-6  # some ten roundings of float32


def test_a_wrong_gradient_is_an_error_of_its_size():
    problem = make_problem(3, 5, 200, 16, torch.float32)
    loss, truth = forward_backward(ON_ANY_DEVICE["naive"](), problem), exact(problem)
    problem.weight.grad *= 1.01
    assert largest_error(problem, loss, truth) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.skipif(sys.platform != "linux", reason="reads and resets the peak in /proc")
def test_the_rise_of_the_peak_is_what_was_allocated_meanwhile_and_nothing_earlier():
    megabyte = 2**20
    bytearray(400 * megabyte)  # touched and freed
    rise = memory.rise_of_peak(lambda: bytearray(100 * megabyte))
    # Pages of 4 KB, and whatever the interpreter allocates besides.
    assert 99 * megabyte < rise < 105 * megabyte
