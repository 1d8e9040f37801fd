#!/usr/bin/env bash
# One would guess: the product of a view that leaves columns out, wide[:, :k] @ right, depends on the view's elements
# alone, whatever stands in the columns between its rows.
# What happens in torch 2.13.0 for bfloat16 on x86 CPUs with AMX, where k is no multiple of 32 and there are many rows:
# the kernel takes blocks of 32 columns, reads what lies beyond the view's k, and multiplies it by zeros. Finite numbers
# vanish that way; NaN and infinity there make the product NaN. A head whose hidden states are a slice of a larger
# buffer meets this with padding that nobody cleared. Without AMX (ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16), in float32, and
# after .contiguous() the product is right.
set -euo pipefail
if ! grep -qw amx_bf16 /proc/cpuinfo; then
    echo "this processor has no AMX: nothing to see here"
    exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.4.0 torch==2.13.0 2>/dev/null
cat > "$work/look.py" <<'PY'
import torch


def nan_in_product(k: int, dtype: torch.dtype, contiguous: bool = False) -> bool:
    torch.manual_seed(0)
    wide = torch.randn(64, 2 * k, dtype=dtype)
    wide[:, k:] = torch.nan
    left = wide[:, :k].contiguous() if contiguous else wide[:, :k]
    return (left @ torch.randn(k, 48, dtype=dtype)).isnan().any().item()


print("torch", torch.__version__)
print("NaN beside the view, k = 100, bfloat16:", nan_in_product(100, torch.bfloat16))
print("k = 128:", nan_in_product(128, torch.bfloat16))
print("k = 100 after .contiguous():", nan_in_product(100, torch.bfloat16, contiguous=True))
print("k = 100, float32:", nan_in_product(100, torch.float32))
PY
"$work/venv/bin/python" "$work/look.py" | tee "$work/amx"
echo "without AMX:"
ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 "$work/venv/bin/python" "$work/look.py" | tee "$work/other"
if [ "$(grep -c True "$work/amx")" != 1 ] || ! grep -q "bfloat16: True" "$work/amx" || grep -q True "$work/other"; then
    echo "changed: see the lines above"
    exit 1
fi
