"""What GPUs are made of, as far as a prediction needs it, and where each figure is from.

Bandwidths are the vendors' figures times a share that a plain copy reaches; what a machine at hand reaches is measured
by `python -m benchmarks gpu`, beside every op.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlif_kernels.backends.triton.plan import Device

# Of the vendor's bandwidth that a copy reaches: 4.3 of 4.8 TB/s were measured on an H200 (read and written), 3.0 of
# 3.35 on an H100. The same share is assumed of the others.
REACHED = 0.9
# Of a load from memory while many are under way; assumed for every GPU.
LATENCY_SECONDS = 700e-9
# Between the ends of two small kernels that one stream runs one after the other: start, first load, end. Assumed.
LAUNCH_SECONDS = 2.2e-6


@dataclass(frozen=True)
class GPU:
    """One device. A multiprocessor is a compute unit on AMD, and a warp a wavefront."""

    name: str
    target: str
    """What kernels for it are compiled for."""
    device: Device
    """What the launcher's plans go by."""
    clock: float
    """Hertz, under load."""
    bandwidth: float
    """Bytes a second, the vendor's."""
    lanes: int
    """Instructions a clock and multiprocessor, counted by thread."""
    exponentials: int
    """A clock and multiprocessor."""
    source: str

    @property
    def copy_bandwidth(self) -> float:
        return REACHED * self.bandwidth

    @property
    def clocks(self) -> float:
        """Of all multiprocessors, a second."""
        return self.device.multiprocessors * self.clock


_CUDA = "CUDA C++ Programming Guide, tables of compute capabilities and of arithmetic throughput"
_HOPPER = {"cache_bytes": 50 << 20, "shared_bytes": 228 << 10}
GPUS = {
    gpu.name: gpu
    for gpu in (
        GPU("A100", "sm_80", Device("sm_80", 108, 40 << 20, shared_bytes=164 << 10), 1.41e9, 2.039e12, 128, 16,
            f"NVIDIA A100 80GB SXM datasheet; {_CUDA}"),
        GPU("H100", "sm_90", Device("sm_90", 132, **_HOPPER), 1.75e9, 3.35e12, 128, 16,
            f"NVIDIA H100 SXM datasheet and architecture whitepaper; {_CUDA}; the clock is assumed"),
        GPU("H200", "sm_90", Device("sm_90", 132, **_HOPPER), 1.75e9, 4.8e12, 128, 16,
            f"NVIDIA H200 SXM datasheet; {_CUDA}; the rest is the H100's"),
        GPU("B200", "sm_100", Device("sm_100", 148, 126 << 20), 1.85e9, 8e12, 128, 16,
            f"NVIDIA HGX B200 datasheet; {_CUDA}; cache and multiprocessors as reported; the clock is assumed"),
        GPU("MI300X", "gfx942", Device("gfx942", 304, 256 << 20, warp=64, registers=131072, shared_bytes=64 << 10),
            2.1e9, 5.3e12, 64, 16, "AMD Instinct MI300X datasheet, CDNA 3 whitepaper; the cache is the Infinity Cache"),
    )
}  # fmt: skip
# How many programs a multiprocessor holds at most, whatever they need.
MOST_PROGRAMS = 32
# A program on NVIDIA takes this much shared memory for itself.
_PROGRAM_SHARED_BYTES = 1024


def gpu_of(target: str) -> GPU:
    """A GPU that kernels for the target run on."""
    return next(gpu for gpu in GPUS.values() if gpu.target == target)


def resident_programs(device: Device, registers: int, warps: int, shared_bytes: int) -> int:
    """How many programs of a compiled kernel a multiprocessor holds at once; 0 if not one.

    Args:
        registers: of a thread. They are given out in units of eight.
        warps: of a program.
        shared_bytes: of a program.
    """
    threads = warps * device.warp
    own = _PROGRAM_SHARED_BYTES if device.warp == 32 else 0
    by_registers = device.registers // (-(-registers // 8) * 8 * threads)
    by_shared = device.shared_bytes // (shared_bytes + own) if shared_bytes + own else MOST_PROGRAMS
    return min(by_registers, by_shared, device.threads // threads, MOST_PROGRAMS)
