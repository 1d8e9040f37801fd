"""The head with the GRPO loss on it, forward and backward, on the CPU: ours beside what people use instead.

    python -m pytest benchmarks/test_cpu_linear_grpo.py --benchmark-json FILE

Same inputs and same loss for all; each implementation is compared with float64 before it is timed. Peers take part
where they can be imported (`pip install trl liger-kernel`); those that cannot are named in the file, under `missing`.
Peak memory is measured by `python -m benchmarks.memory`.
"""

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.heads import ON_ANY_DEVICE, Problem, exact, forward_backward, largest_error, make_problem

# 8 completions of 128 tokens: a wide head, and one with Llama 3's vocabulary that fits the time.
SHAPES = [(8, 128, 32000, 512), (8, 128, 128256, 128)]
DTYPES = [torch.float32, torch.bfloat16]
# float32: rounding of sums over V and H. bfloat16: the logits themselves are rounded to 8 bits, by whoever uses them.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2}


@cache
def problem_with_truth(
    shape: tuple[int, int, int, int], dtype: torch.dtype
) -> tuple[Problem, tuple[Tensor, Tensor, Tensor]]:
    problem = make_problem(*shape, dtype)
    return problem, exact(problem)


@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
@pytest.mark.parametrize("name", ON_ANY_DEVICE)
def test_forward_backward(benchmark: Any, name: str, shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    problem, truth = problem_with_truth(shape, dtype)
    try:
        implementation = ON_ANY_DEVICE[name]()
    except (ImportError, AttributeError) as missing:
        pytest.skip(f"{name}: {missing}")
    error = largest_error(problem, forward_backward(implementation, problem), truth)
    assert error < TOLERANCE[dtype], "not the same loss"
    batch, length, vocab_size, hidden_size = shape
    benchmark.group = (
        f"{batch * length} tokens, V = {vocab_size}, H = {hidden_size}, {str(dtype).removeprefix('torch.')}"
    )
    benchmark.extra_info["largest error"] = error
    benchmark.pedantic(forward_backward, args=(implementation, problem), warmup_rounds=1, rounds=5)
    problem.hidden.grad = problem.weight.grad = None
