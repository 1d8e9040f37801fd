#!/usr/bin/env bash
# One would guess: estimators that compare the responses of a prompt agree about a response that has no other to be compared
# with, which group filtering leaves behind: it says nothing about which is better, so its advantage is 0.
# What happens in verl 0.9.1: `grpo` takes 0 as the mean and 1 as the standard deviation of a group of one, so that the
# response keeps its raw reward as its advantage, and `rloo` does likewise; `rloo_vectorized`, the same estimator in other
# words, gives it 0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 verl==0.9.1 2>/dev/null
cat > "$work/look.py" <<'PY'
from importlib.metadata import version

import numpy as np
import torch
from verl.trainer.ppo.core_algos import get_adv_estimator_fn

rewards = torch.tensor([[0.0, 1.0], [0.0, 0.0], [0.0, 3.0]])  # the last response is alone in its group
found = {}
for name in ("grpo", "rloo", "rloo_vectorized"):
    advantages, _ = get_adv_estimator_fn(name)(
        token_level_rewards=rewards.clone(), response_mask=torch.ones(3, 2), index=np.array(["a", "a", "b"])
    )
    found[name] = advantages[:, 0].tolist()
print("verl", version("verl"))
for name, values in found.items():
    print(f"{name:16} advantages {[round(value, 3) for value in values]}")
assert abs(found["grpo"][2] - 3) < 1e-3, "grpo no longer gives the raw reward"
assert found["rloo"][2] == 3, "rloo no longer gives the raw reward"
assert found["rloo_vectorized"][2] == 0, "rloo_vectorized no longer gives 0"
assert np.allclose(found["rloo"][:2], found["rloo_vectorized"][:2])
PY
"$work/venv/bin/python" "$work/look.py" 2>/dev/null
