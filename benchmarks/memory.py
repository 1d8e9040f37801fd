"""This process's resident memory, now and at its peak; Linux only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def resident_bytes(field: str) -> int:
    """This process's resident memory: now (VmRSS), or its peak (VmHWM)."""
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


def rise_of_peak(function: Callable[[], object]) -> int:
    """Bytes by which resident memory rises at most while `function` runs, whatever was allocated and freed earlier."""
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is resident now
    before = resident_bytes("VmRSS")
    function()
    return resident_bytes("VmHWM") - before
