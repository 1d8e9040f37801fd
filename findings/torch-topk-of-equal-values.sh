#!/usr/bin/env bash
# One would guess: torch.topk takes equal values in the order of their ids, as argmax does ("the indices of the first
# maximal value are returned"), and as a stable sort does.
# What happens in torch 2.13.0 on a CPU: it takes any of them. Of 1000 zeros the five largest are 3, 4, 1, 0 and 2, and of
# ten the three largest 8, 6 and 7. Logits of half precision are full of equal values, so two implementations that agree
# to the bit in log p may name other tokens at the k-th place, and the first of topk need not be argmax.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.4.0 torch==2.13.0 2>/dev/null
cat > "$work/look.py" <<'PY'
import torch

print("torch", torch.__version__)
for count, k in ((10, 3), (1000, 5)):
    zeros = torch.zeros(count)
    print(f"{count} zeros: topk({k})", zeros.topk(k).indices.tolist(), "argmax", zeros.argmax().item())
logits = torch.randn(64, 32000, generator=torch.Generator().manual_seed(0)).bfloat16()
ids, first = logits.topk(20).indices, logits.sort(dim=-1, descending=True, stable=True).indices[:, :20]
print("rows of 64 x 32000 bfloat16 whose 20 ids are others than a stable sort's:", (ids != first).any(-1).sum().item())
print("rows whose first id is not argmax:", (ids[:, 0] != logits.argmax(-1)).sum().item())
PY
"$work/venv/bin/python" "$work/look.py" | tee "$work/seen"
if ! grep -q "10 zeros: topk(3) \[8, 6, 7\] argmax 0" "$work/seen" || ! grep -q "stable sort's: [1-9]" "$work/seen"; then
    echo "changed: see the lines above"
    exit 1
fi
