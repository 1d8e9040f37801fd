"""`token_stats` on the CPU beside what people write without it: time, and memory beyond inputs and gradient.

    python -m pytest benchmarks/test_cpu_token_stats.py --benchmark-json FILE

All three statistics and their gradient. Each implementation is checked against the float64 reference before it is
timed. `extra MB` in the saved JSON is the rise of a fresh process's peak resident memory during one forward and
backward, less the gradient, which every implementation must allocate.
"""

import math
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rlif_kernels import reference, token_stats

SHAPES = [(1024, 32000), (256, 151936)]
DTYPES = [torch.float32, torch.bfloat16]
Statistics = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def naive(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log-softmax, then what the definitions say."""
    logp = F.log_softmax(logits.float(), dim=-1)
    logprob = logp.gather(-1, targets[..., None])[..., 0]
    return logprob, -(logp.exp() * logp).sum(-1), -logp.mean(-1) - torch.tensor(float(logits.shape[-1])).log()


def rlif(logits: Tensor, targets: Tensor, backend: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    stats = token_stats(logits, targets, backend=backend)
    assert stats.logprob is not None
    assert stats.entropy is not None
    assert stats.self_certainty is not None
    return stats.logprob, stats.entropy, stats.self_certainty


def trl() -> Statistics:
    """TRL's functions, and self-certainty composed from theirs in the cheapest way, with one mean more."""
    utilities = pytest.importorskip("trl.trainer.utils", reason="TRL is not installed")

    def statistics(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logprob = utilities.selective_log_softmax(logits, targets)
        logsumexp = logits.gather(-1, targets[:, None])[:, 0] - logprob
        self_certainty = logsumexp - logits.mean(-1) - math.log(logits.shape[-1])
        return logprob, utilities.entropy_from_logits(logits), self_certainty

    return statistics


IMPLEMENTATIONS: dict[str, Callable[[], Statistics]] = {
    "naive": lambda: naive,
    "TRL": trl,
    "compiled naive": lambda: torch.compile(naive),
    "rlif, torch backend": lambda: partial(rlif, backend="torch"),
    "rlif": lambda: rlif,
}


def inputs(num_rows: int, num_columns: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    # In place: a temporary of the logits' size would hide the op's own memory below an earlier peak.
    logits = torch.empty(num_rows, num_columns, dtype=dtype).normal_(std=3, generator=generator)
    return logits.requires_grad_(), torch.randint(num_columns, (num_rows,), generator=generator)


def forward_backward(statistics: Statistics, logits: Tensor, targets: Tensor) -> None:
    logits.grad = None
    logprob, entropy, self_certainty = statistics(logits, targets)
    (logprob - 0.1 * entropy + 0.1 * self_certainty).sum().backward()


@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_forward_backward(benchmark: Any, name: str, shape: tuple[int, int], dtype: torch.dtype) -> None:
    statistics = IMPLEMENTATIONS[name]()
    logits, targets = inputs(shape[0], shape[1], dtype)
    expected = reference.token_stats(logits[:4].detach().double(), targets[:4])
    error = 0.0
    for value, exact in zip(statistics(logits, targets), expected[:3], strict=True):
        assert exact is not None
        error = max(error, (value[:4].double() - exact).abs().max().item())
    assert error < 0.5, "not the same statistics"  # how near each comes is part of the results
    benchmark.extra_info["largest error"] = error
    benchmark.group = f"forward + backward, {shape[0]} x {shape[1]}, {dtype}"
    benchmark.extra_info["extra MB"] = extra_megabytes(name, shape, dtype)
    benchmark.extra_info["logits MB"] = logits.nbytes / 2**20
    benchmark.extra_info["torch"] = torch.__version__
    benchmark.pedantic(forward_backward, args=(statistics, logits, targets), warmup_rounds=2, rounds=15)


def extra_megabytes(name: str, shape: tuple[int, int], dtype: torch.dtype) -> float:
    """Peak resident memory of one forward and backward beyond inputs and gradient, in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.test_cpu_token_stats",
        name,
        *map(str, shape),
        str(dtype).split(".")[1],
    ]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def peak_megabytes() -> float:
    """This process's peak resident memory. Linux's getrusage would count the parent's, from before the exec."""
    try:
        with open("/proc/self/status") as lines:
            return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes on macOS


def main() -> None:
    name, num_rows, num_columns, dtype = sys.argv[1:]
    statistics = IMPLEMENTATIONS[name]()
    # Whatever the first call of anything allocates for good (thread pools, compiled code) is not the op's. A small
    # call, lest the scratch that it frees hides the scratch to be measured; but compiled code is made for one V.
    warm_up_columns = int(num_columns) if name.startswith("compiled") else 64
    forward_backward(statistics, *inputs(8, warm_up_columns, getattr(torch, dtype)))
    logits, targets = inputs(int(num_rows), int(num_columns), getattr(torch, dtype))
    before = peak_megabytes()
    forward_backward(statistics, logits, targets)
    print(peak_megabytes() - before - logits.nbytes / 2**20)


if __name__ == "__main__":
    main()
