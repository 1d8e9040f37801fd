#!/usr/bin/env bash
# One would guess: the generalized Jensen-Shannon divergence is continuous in beta, and its "batchmean" is a mean over
# the same things whether or not labels are passed.
# What happens in TRL 1.16.0 (GKDTrainer.generalized_jsd_loss): beta 0 and 1 stand for
# the two KL divergences, while the formula itself goes to 0 at both ends, so that the loss falls from the whole KL to
# almost nothing as beta leaves 0. And "batchmean" is the mean over tokens with labels, but without labels the sum over
# tokens divided by the number of sequences: T times as large.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.4.0 torch==2.13.0 trl==1.16.0 2>/dev/null
cat > "$work/look.py" <<'PY'
from importlib.metadata import version

import torch
from trl.experimental.gkd.gkd_trainer import GKDTrainer

torch.manual_seed(0)
student, teacher = torch.randn(2, 5, 50), torch.randn(2, 5, 50)
labels = torch.zeros(2, 5, dtype=torch.long)
loss = GKDTrainer.generalized_jsd_loss
at_0, near_0 = (loss(student, teacher, labels, beta=beta).item() for beta in (0.0, 1e-4))
without = loss(student, teacher, beta=0.0).item()
print("trl", version("trl"))
print(f"beta 0: {at_0:.4f}, beta 0.0001: {near_0:.4f}")
print(f"without labels: {without:.4f}, {without / at_0:.1f} times as much")
assert near_0 < 0.01 * at_0, "continuous at 0"
assert abs(without / at_0 - 5) < 1e-3, "the same mean with and without labels"
PY
"$work/venv/bin/python" "$work/look.py"
