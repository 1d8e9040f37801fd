"""The ops on this CPU by pytest-benchmark: the gate on their speed, and the comparison of two commits.

    make bench-gate
    make bench-compare BASE=REVISION [ARGS="-k token_stats"]

How others do the same work: `python -m benchmarks`.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from benchmarks.gates import gate
from benchmarks.gates.base import Base, running, seconds_of_call
from benchmarks.gates.gate import GATED, GATED_DTYPES, NAMES
from benchmarks.ops.problems import Call

SHAPES = {"64x8000": (64, 8000), "1024x32000": (1024, 32000), "256x151936": (256, 151936)}
# Of the ops that have the head in them: narrow, so that the product does not drown what is compared.
HIDDEN_SIZE = 128
# float32: sums over V in two orders. bfloat16: gradients of 8 bits, rounded once or twice.
GATE_TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def base(request: Any) -> Iterator[Base]:
    kernels = request.config.getoption("--base")
    if kernels is None:
        pytest.skip("no --base to compare with")
    with running(kernels) as base:
        yield base


def run(benchmark: Any, call: Call, other: Callable[[], float], rounds: int) -> tuple[list[float], list[float]]:
    """Call the other, whose seconds it gives, then ours, the other again, and so on; the seconds of both."""
    others: list[float] = []

    def setup() -> None:
        others.append(other())
        call.problem.clear_gradients()

    benchmark.pedantic(call.forward_backward, setup=setup, warmup_rounds=1, rounds=rounds)
    return others[-rounds:], benchmark.stats.stats.data


@pytest.mark.parametrize("dtype", GATED_DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("op", GATED)
def test_base(benchmark: Any, base: Base, op: str, shape: str, dtype: str) -> None:
    """The base is called in its own process."""
    benchmark.group = f"{op}, {shape}, {dtype}"
    arguments = op, *SHAPES[shape], HIDDEN_SIZE, dtype
    base.prepare(*arguments)
    naive, ours = gate.calls(*arguments)
    assert max(ours.errors(naive.results())) < GATE_TOLERANCE[dtype]
    theirs, here = run(benchmark, ours, base.call, rounds=25)
    benchmark.extra_info |= {"seconds base": theirs, "seconds here": here}


@pytest.mark.parametrize("name", NAMES)
def test_gate(benchmark: Any, name: str, one_thread: None, request: Any) -> None:
    """The naive form is called, and timed, before each round."""
    naive, ours = gate.calls_of(name)
    speed_ups = gate.attempts(*run(benchmark, ours, lambda: seconds_of_call(naive), gate.ROUNDS * gate.ATTEMPTS))
    benchmark.extra_info["speed-up over the naive form"] = speed_ups
    if request.config.getoption("--write-gate"):
        # The least of several: a speed-up that this machine had by luck would be asked of all others.
        gate.write_baseline(name, gate.Measured(min(speed_ups), gate.extra_bytes(ours)))
    baseline = gate.read_baseline()[name]
    assert gate.hungrier(name, ours, baseline) is None
    assert gate.slower(name, speed_ups, baseline) is None
