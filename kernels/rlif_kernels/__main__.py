"""Say which backend serves here, on each device and dtype, and why; the C kernels are compiled if they are not yet.

python -m rlif_kernels
"""

import importlib.util
import platform
import warnings

import torch

from rlif_kernels.backends import c as cpu_backend
from rlif_kernels.backends.c import build


def main() -> None:
    found = build.find(again=True)
    warnings.simplefilter("ignore")  # what the backend would warn of is printed below
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n\ndevice dtype     backend")
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        backend = "cpu" if cpu_backend.serves(torch.empty(1, dtype=dtype)) else "torch"
        print(f"cpu    {str(dtype).removeprefix('torch.'):9} {backend:7} {platform.processor() or platform.machine()}")
    has_triton = importlib.util.find_spec("triton") is not None
    for kind in ("cuda", "xpu"):
        if getattr(torch, kind).is_available():
            backend = "triton" if has_triton else "torch"
            print(f"{kind:6} any       {backend:7} {getattr(torch, kind).get_device_name()}")
    print(f"\nC kernels (backend cpu): {'' if found.library else 'none, because '}{found.reason}")
    if not has_triton:
        print("Triton kernels (backend triton): none, because the package triton is not installed")


if __name__ == "__main__":
    main()
