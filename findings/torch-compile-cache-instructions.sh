#!/usr/bin/env bash
# One would guess that the code which torch.compile keeps on disk belongs to the instruction set that it was written for:
# a process that is to use AVX2 compiles anew where one without vectors has compiled the same function before.
# The key of the cache of compiled graphs has no instruction set in it. ATEN_CPU_CAPABILITY=avx2 is answered by a hit, and
# by the code without vectors, as long as that cache lives; with a cache of its own the same process writes vectors. The
# other way round, code of more capable processors is served to less capable ones that share a home or a cache folder.
# A benchmark that compares instruction sets needs one TORCHINDUCTOR_CACHE_DIR for each.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 numpy==2.4.0 2>/dev/null
cat >look.py <<'PY'
import os
import sys
from pathlib import Path

import torch
from torch._dynamo.utils import counters


@torch.compile
def function(x):
    return (x.sin() * x.cos()).exp()


x = torch.linspace(0, 1, 1 << 16)
error = float((function(x) - (x.sin() * x.cos()).exp()).abs().max())
written = [path.read_text() for path in Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).rglob("*.main.cpp")]
hits = counters["inductor"]["fxgraph_cache_hit"]
vectors = any("Vectorized<float>" in text for text in written)
print(f"{torch.backends.cpu.get_cpu_capability()}: {hits} hits, code with vectors in the cache: {vectors}, error {error:.0e}")
sys.exit(0 if (hits, vectors) == (int(sys.argv[1]), sys.argv[2] == "True") else 1)
PY
venv/bin/python -c 'import torch; print("torch", torch.__version__)'
ATEN_CPU_CAPABILITY=default TORCHINDUCTOR_CACHE_DIR=$folder/one venv/bin/python look.py 0 False
echo "the same folder, now with AVX2:"
ATEN_CPU_CAPABILITY=avx2 TORCHINDUCTOR_CACHE_DIR=$folder/one venv/bin/python look.py 1 False
echo "a folder of its own:"
ATEN_CPU_CAPABILITY=avx2 TORCHINDUCTOR_CACHE_DIR=$folder/two venv/bin/python look.py 0 True
