"""Time and memory of a call on a GPU; in a dry run on a CPU, numbers of the right kind."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def milliseconds(function: Callable[[], object], dry_run: bool, rep: int = 100) -> list[float]:
    """Median, 20th and 80th percentile over about `rep` milliseconds of calls."""
    if dry_run:
        started = time.perf_counter()
        function()
        return [1e3 * (time.perf_counter() - started)] * 3
    from triton.testing import do_bench

    return list(do_bench(function, warmup=25, rep=rep, quantiles=[0.5, 0.2, 0.8]))


def rise_of_peak(function: Callable[[], object]) -> int:
    """Bytes by which the allocated device memory rises at most while `function` runs; 0 where there is no GPU."""
    if not torch.cuda.is_available():
        function()
        return 0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before
