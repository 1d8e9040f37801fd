#!/usr/bin/env bash
# One would guess: where many rows are added up in bfloat16, torch adds them in float32 and rounds once, as sum() does.
# So the gradient of an embedding is as exact for a frequent token as for a rare one, however the embedding is looked up.
# What happens in torch 2.13.0 on x86 CPUs: the backward of F.embedding and of weight[ids], index_add of a vector, and the
# gradient of layer_norm's bias (for each thread) keep their running sum in bfloat16. It has 8 significant bits, so that
# ones add up to 256 and no further: the gradient of a token that occurs 10000 times in a batch is 256 where 10000 is due.
# Where the rows have signs that mostly cancel, every addition still rounds, and the gradient is off by a tenth,
# some fifty times what one rounding costs. The same lookup as weight.index_select(0, ids), or as a product with one-hot
# rows, has the right gradient, and index_add of a column, (N, 1) in place of (N,), the right sum.
set -euo pipefail
if [ "$(uname -m)" != x86_64 ]; then
    echo "this processor is no x86: nothing is said about it"
    exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.4.6 torch==2.13.0 2>/dev/null
cat > "$work/look.py" <<'PY'
import sys

import torch
from torch.nn import functional as F

torch.set_num_threads(1)
COUNT, WIDTH = 10000, 64
ids = torch.zeros(COUNT, dtype=torch.long)
ones = torch.ones(COUNT, dtype=torch.bfloat16)
states = torch.randn(COUNT, WIDTH, generator=torch.Generator().manual_seed(1)).bfloat16()
noise = torch.randn(COUNT, WIDTH, generator=torch.Generator().manual_seed(0)).bfloat16()
one_hot = F.one_hot(ids, 4).bfloat16()
lookups = {
    "F.embedding": lambda weight: F.embedding(ids, weight),
    "weight[ids]": lambda weight: weight[ids],
    "layer_norm's bias": lambda weight: F.layer_norm(states, (WIDTH,), None, weight[0]),
    "index_select": lambda weight: weight.index_select(0, ids),
    "one-hot product": lambda weight: one_hot @ weight,
}


def gradient(lookup, upstream: torch.Tensor) -> torch.Tensor:
    weight = torch.zeros(4, WIDTH, dtype=torch.bfloat16, requires_grad=True)
    lookup(weight).backward(upstream)
    return weight.grad[0].double()


print("torch", torch.__version__, torch.backends.cpu.get_cpu_capability())
stalls, exact = [], []
due = noise.double().sum(0)
for name, lookup in lookups.items():
    of_ones = gradient(lookup, torch.ones_like(noise))[0].item()
    error = ((gradient(lookup, noise) - due).norm() / due.norm()).item()
    print(f"{name}: {COUNT} ones give {of_ones:.0f}, normal noise an error of {error:.1%}")
    if of_ones == 256 and error > 0.05:
        stalls.append(name)
    elif abs(of_ones - COUNT) < 64 and error < 0.01:
        exact.append(name)
vector = torch.zeros(1, dtype=torch.bfloat16).index_add_(0, ids, ones).item()
column = torch.zeros(1, 1, dtype=torch.bfloat16).index_add_(0, ids, ones[:, None]).item()
print(f"index_add of {COUNT} ones: a vector gives {vector:.0f}, a column {column:.0f}, and sum() gives {ones.sum():.0f}")
names = list(lookups)
if stalls != names[:3] or exact != names[3:] or vector != 256 or abs(column - COUNT) > 64:
    sys.exit("changed: see the lines above")
PY
"$work/venv/bin/python" "$work/look.py"
