"""What made a figure: written into every results file."""

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version

import torch

PACKAGES = ("rlif", "torch", "triton", "transformers", "numpy")
PEER_PACKAGES = (
    "trl",
    "liger_kernel",
    "verl",
    "cut_cross_entropy",
    "quack-kernels",
    "flash-linear-attention",
    "flash-attn",
)


def describe_machine() -> dict[str, object]:
    """Processor, accelerator, operating system and versions."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES}
        | {name: v for name in PEER_PACKAGES if (v := _version(name))},
    }


def slug(device: str) -> str:
    """Return the kind of machine, as it begins the names of results files: `2-core-cpu`, `nvidia-h200`."""
    if device == "cpu":
        return f"{os.cpu_count()}-core-cpu"
    return re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")


def free_bytes(device: str) -> int | None:
    """Memory that could be allocated now; None where that cannot be known."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    try:
        with open("/proc/meminfo", encoding="utf-8") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
