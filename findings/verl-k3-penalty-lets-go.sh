#!/usr/bin/env bash
# One would guess: the further the policy has taken a token's probability below the reference's, the harder the penalty
# k3 = r - 1 - log r, r = reference / policy, pulls it back: its derivative by the policy's log-probability is 1 - r.
# What happens in verl 0.9.1 (kl_loss_type "low_var_kl", its default, alias "k3"): the value is clamped to 10, and a clamp that
# binds has no gradient. k3 reaches 10 at r = 13.4. So a token that the policy makes 13 times rarer than the
# reference is pulled back with force 12, and one that it makes 14 times rarer is not pulled at all. The penalty lets go
# of just the tokens that it is for, and the logged mean, which counts 10 for each of them, does not tell.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.4.6 torch==2.13.0 verl==0.9.1 2>/dev/null
cat > "$work/look.py" <<'PY'
import sys
from importlib.metadata import version
from pathlib import Path

import torch
import verl
import yaml
from verl.trainer.ppo.core_algos import kl_penalty

actor = yaml.safe_load((Path(verl.__file__).parent / "trainer/config/actor/actor.yaml").read_text())
kind = actor["kl_loss_type"]
ratios = torch.tensor([2.0, 8.0, 13.0, 14.0, 100.0, 1e4], dtype=torch.float64)
policy = (-ratios.log()).requires_grad_()  # the reference's log-probability is 0
value = kl_penalty(policy, torch.zeros_like(policy), kind)
(gradient,) = torch.autograd.grad(value.sum(), policy)
print("torch", torch.__version__, "verl", version("verl"), "kl_loss_type", kind)
for ratio, each, slope in zip(ratios.tolist(), value.tolist(), gradient.tolist(), strict=True):
    k3 = ratio - 1 - torch.tensor(ratio).log().item()
    print(f"reference / policy = {ratio:g}: k3 {k3:.2f}, verl's {each:.2f}; derivative {1 - ratio:g}, verl's {slope:.2f}")
as_stated = torch.allclose(gradient[:3], 1 - ratios[:3]) and not gradient[3:].any() and bool((value[3:] == 10).all())
if kind != "low_var_kl" or not as_stated:
    sys.exit("changed: see the lines above")
PY
"$work/venv/bin/python" "$work/look.py" 2>/dev/null
