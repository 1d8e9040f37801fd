"""The ops on this CPU by pytest-benchmark: the gate on their speed, and the comparison of two commits.

    make bench-gate
    make bench-compare BASE=REVISION [ARGS="-k token_stats"]

Names and shapes stay what they are, or files that `--benchmark-save` keeps can no longer be compared. How others do the
same work: `python -m benchmarks`.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import rlif_kernels
from benchmarks.gates import gate
from benchmarks.gates.gate import DTYPES, GATED, NAMES
from benchmarks.ops.problems import Call

SHAPES = {"64x8000": (64, 8000), "1024x32000": (1024, 32000), "256x151936": (256, 151936)}
# Of the ops that have the head in them: narrow, so that the product does not drown what is compared.
HIDDEN_SIZE = 128
# float32: sums over V in two orders. bfloat16: gradients of 8 bits, rounded once or twice.
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=[(op, shape, dtype) for op in GATED for shape in SHAPES for dtype in DTYPES], ids="-".join)
def calls(request: Any, benchmark: Any) -> tuple[Call, Call]:
    """The naive form and ours, which is right."""
    op, shape, dtype = request.param
    benchmark.group = f"{op}, {shape}, {dtype}"
    benchmark.extra_info["rlif_kernels"] = rlif_kernels.__file__
    naive, ours = gate.calls(op, *SHAPES[shape], HIDDEN_SIZE, dtype)
    differences = ours.errors(naive.results())
    benchmark.extra_info["differences from the naive form"] = differences
    assert max(differences) < TOLERANCE[dtype]
    return naive, ours


def test_rlif(benchmark: Any, calls: tuple[Call, Call]) -> None:
    run(benchmark, calls[1])


def test_naive(benchmark: Any, calls: tuple[Call, Call]) -> None:
    run(benchmark, calls[0])


def run(benchmark: Any, call: Call, before: Callable[[], object] = lambda: None, rounds: int = 9) -> None:
    def setup() -> None:
        before()
        call.problem.clear_gradients()

    benchmark.pedantic(call.forward_backward, setup=setup, warmup_rounds=1, rounds=rounds)


@pytest.mark.parametrize("name", NAMES)
def test_gate(benchmark: Any, name: str, one_thread: None, request: Any) -> None:
    """The naive form is called, and timed, before each round."""
    naive, ours = gate.calls_of(name)
    seconds: list[float] = []

    def call_naive() -> None:
        naive.problem.clear_gradients()
        started = time.perf_counter()
        naive.forward_backward()
        seconds.append(time.perf_counter() - started)

    rounds = gate.ROUNDS * gate.ATTEMPTS
    run(benchmark, ours, before=call_naive, rounds=rounds)
    speed_ups = gate.attempts(seconds[-rounds:], benchmark.stats.stats.data)
    benchmark.extra_info["speed-up over the naive form"] = speed_ups
    if request.config.getoption("--write-gate"):
        # The least of several: a speed-up that this machine had by luck would be asked of all others.
        gate.write_baseline(name, gate.Measured(min(speed_ups), gate.extra_bytes(ours)))
    baseline = gate.read_baseline()[name]
    assert gate.hungrier(name, ours, baseline) is None
    assert gate.slower(name, speed_ups, baseline) is None
