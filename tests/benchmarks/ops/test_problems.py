"""Everybody who is timed computes the same, and what they are compared with is right."""

import pytest
import torch

from benchmarks.ops.implementations import IMPLEMENTATIONS, naive, plain
from benchmarks.ops.problems import (
    CHECKED_ROWS,
    LOSS,
    OPS,
    Call,
    Shape,
    exact,
    gradient_error,
    make_problem,
    output_error,
)
from rlif_kernels import reference

# What is compiled is what eager runs.
ON_CPU = [(op, each.name) for op in OPS for each in IMPLEMENTATIONS[op] if "cpu" in each.devices and not each.compiled]


@pytest.mark.parametrize(("op", "name"), ON_CPU)
def test_everybody_who_is_timed_computes_the_same(op, name):
    (implementation,) = [each for each in IMPLEMENTATIONS[op] if each.name == name]
    problem = make_problem(Shape(3, 5, 200, 16 if OPS[op].head else 0, "float32"))
    try:
        function = implementation.build()
        outputs = function(problem)
    except ImportError as missing:
        pytest.skip(f"{name}: {missing}")
    problem.objective(OPS[op], outputs).backward()
    truth = exact(OPS[op], problem)
    # Some ten roundings of float32, of logits up to 12; self-certainty composed of three such terms, a few more.
    assert output_error(outputs, truth) < 1e-5
    assert gradient_error(problem, truth) < 5e-6


@pytest.mark.parametrize("op", OPS)
def test_the_truth_in_blocks_is_plain_autograd_in_float64(op):
    problem = make_problem(Shape(2, CHECKED_ROWS, 50, 8 if OPS[op].head else 0, "float32"))
    truth = exact(OPS[op], problem, rows=7)
    problem.__dict__["teacher"] = tuple(tensor.double() for tensor in problem.teacher)
    for leaf in problem.leaves:
        leaf.data = leaf.data.double()
        leaf.grad = None
    function = getattr(reference, OPS[op].kernel)
    if OPS[op].outputs == LOSS:
        outputs = function(*problem.arguments(OPS[op]), **OPS[op].options)[:1]
    else:
        stats = function(*problem.arguments(OPS[op]), outputs=OPS[op].outputs)
        outputs = tuple(value for value in stats if value is not None)
    problem.objective(OPS[op], outputs).backward()
    # Two orders of addition in float64.
    assert output_error(outputs, truth) < 1e-13
    assert gradient_error(problem, truth) < 1e-12


def test_an_error_is_as_large_as_the_mistake():
    problem = make_problem(Shape(3, 5, 200, 16, "float32"))
    op = OPS["linear_grpo_loss"]
    outputs = Call(op, problem, plain(op, naive)).forward_backward()
    truth = exact(op, problem)
    problem.leaves[1].grad *= 1.01
    assert gradient_error(problem, truth) == pytest.approx(0.01, rel=1e-3)
    assert output_error((outputs[0] + 0.5,), truth) == pytest.approx(0.5, rel=1e-3)
    assert output_error((outputs[0] * torch.nan,), truth) == float("inf")
