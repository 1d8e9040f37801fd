#!/usr/bin/env bash
# One would guess that Triton's tl.log2 of float32 is about as dear as its tl.exp2: NVIDIA's GPUs have an instruction for
# each of the two (MUFU.EX2 and MUFU.LG2), and Triton takes the first for tl.exp2.
# For tl.log2 it calls libdevice's log2f: a polynomial, some twenty instructions for each element, and no MUFU.LG2 at all.
# A kernel that computes a logarithm for each element is bound by it, where one with an exponential is bound by memory. The
# instruction is had by inline assembly (lg2.approx.ftz.f32), with the error that NVIDIA's guide states for __log2f.
# Nothing here needs a GPU: kernels are compiled for sm_90 and disassembled by what the package ships.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet triton==3.7.1 2>/dev/null
cat >look.py <<'PY'
import re
import subprocess
import sys
from pathlib import Path

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def copied(x_ptr, y_ptr):
    o = tl.arange(0, 1024)
    tl.store(y_ptr + o, tl.load(x_ptr + o))


@triton.jit
def exp2(x_ptr, y_ptr):
    o = tl.arange(0, 1024)
    tl.store(y_ptr + o, tl.exp2(tl.load(x_ptr + o)))


@triton.jit
def log2(x_ptr, y_ptr):
    o = tl.arange(0, 1024)
    tl.store(y_ptr + o, tl.log2(tl.load(x_ptr + o)))


@triton.jit
def inline(x_ptr, y_ptr):
    o = tl.arange(0, 1024)
    x = tl.load(x_ptr + o)
    y = tl.inline_asm_elementwise("lg2.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)
    tl.store(y_ptr + o, y)


def sass(kernel):
    source = ASTSource(kernel, {"x_ptr": "*fp32", "y_ptr": "*fp32"}, {})
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4})
    Path("kernel.cubin").write_bytes(compiled.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    text = subprocess.run([tool, "-sass", "kernel.cubin"], capture_output=True, text=True, check=True).stdout
    return [line for line in re.findall(r"/\*[0-9a-f]{4,}\*/\s+(.*?);", text) if not line.startswith(("NOP", "BRA"))]


print("triton", triton.__version__)
plain = len(sass(copied))
found = {}
for kernel in (exp2, log2, inline):
    text = sass(kernel)
    found[kernel.__name__] = (len(text) - plain) / 8, sum("MUFU.LG2" in each for each in text)  # 8 elements a thread
    print(f"{kernel.__name__}: {found[kernel.__name__][0]:.1f} instructions an element more than a copy, "
          f"{found[kernel.__name__][1]} MUFU.LG2")
surprise = found["log2"][0] > 12 and found["log2"][1] == 0 and found["exp2"][0] < 6 and found["inline"] == (1.0, 8)
sys.exit(0 if surprise else 1)
PY
venv/bin/python look.py
