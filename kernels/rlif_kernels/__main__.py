"""Say which backend serves here, on each device and dtype, and why; the C kernels are compiled if they are not yet.

    python -m rlif_kernels
"""

import importlib.util
import platform

import torch

from rlif_kernels.backends import backend_for
from rlif_kernels.backends.c import build

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def main() -> None:
    c = build.find(again=True)
    devices = {"cpu": platform.processor() or platform.machine()}
    for kind in ("cuda", "xpu"):
        if getattr(torch, kind).is_available():
            devices[kind] = getattr(torch, kind).get_device_name()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for kind, name in devices.items():
        for dtype in DTYPES:
            backend = "triton"
            if kind == "cpu":
                backend = backend_for("auto", torch.empty(1, dtype=dtype)).__name__.rpartition(".")[2]
            print(f"{kind:5} {str(dtype).removeprefix('torch.'):9} {backend:7} {name}")
    print(f"C kernels: {'' if c.library else 'none, because '}{c.reason}")
    if importlib.util.find_spec("triton") is None:
        print("Triton: not installed")


if __name__ == "__main__":
    main()
