"""The four ops on this CPU, ours and the naive form: to compare two commits with each other.

    python -m pytest benchmarks/test_cpu_ops.py --benchmark-save NAME
    python -m pytest benchmarks/test_cpu_ops.py --benchmark-compare

The second, on another commit, shows both side by side; `--benchmark-compare-fail median:20%` makes it fail. Names and
shapes stay what they are, or the comparison is of nothing. Other people's implementations: `python -m benchmarks`.
"""

from typing import Any

import pytest
import torch

from benchmarks.ops.four_ops import OPS, make_case

SHAPES = {"1024x32000": (1024, 32000), "256x151936": (256, 151936)}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Of the ops that have the head in them: narrow, so that the product does not drown what is compared.
HIDDEN_SIZE = 128
# float32: sums over V in two orders. bfloat16: gradients of 8 bits, rounded once or twice.
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("implementation", ["rlif", "naive"])
def test_forward_backward(benchmark: Any, implementation: str, op: str, shape: str, dtype: str) -> None:
    case = make_case(op, *SHAPES[shape], HIDDEN_SIZE, DTYPES[dtype])
    if implementation == "rlif":
        benchmark.extra_info["largest difference from the naive form"] = difference = case.largest_difference()
        assert difference < TOLERANCE[dtype]
    benchmark.group = f"{op}, {shape}, {dtype}"
    benchmark.pedantic(case.run, args=(implementation,), warmup_rounds=1, rounds=9)
