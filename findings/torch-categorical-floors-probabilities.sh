#!/usr/bin/env bash
# One would guess: Categorical(probs=softmax(logits)) is Categorical(logits=logits) up to rounding, in log_prob, entropy and
# gradient, and gives an outcome of probability 0 the log-probability -inf.
# What happens in torch 2.13.0: probabilities are clamped to finfo(dtype).eps before the logarithm. The clamp's docstring calls
# that the smallest positive number of the dtype, but it is the step between neighbours of 1. In float32 no
# log-probability is below -15.94. In bfloat16 none is below -4.84, which is p = 0.0078, and over a vocabulary most
# tokens that are sampled are rarer. They all get this one number, the entropy misses what they add, and since a clamp
# that binds has no gradient, a policy gradient of theirs is zero. Categorical(logits=...) has none of this.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.4.6 torch==2.13.0 2>/dev/null
cat > "$work/look.py" <<'PY'
import sys

import torch
from torch.distributions import Categorical

print("torch", torch.__version__)
found = []
for dtype, small, floor in ((torch.float32, 1e-9, -15.9424), (torch.bfloat16, 1e-5, -4.8438)):
    probs = torch.tensor([1.0, small, 0.0]).to(dtype)
    clamped = Categorical(probs=probs).log_prob(torch.arange(3)).tolist()
    direct = Categorical(logits=probs.log()).log_prob(torch.arange(3)).tolist()
    print(f"{dtype}, log-probabilities of 1, {small} and 0")
    print("  by probs:", [round(each, 4) for each in clamped])
    print("  by logits:", [round(each, 4) for each in direct])
    found.append(max(abs(each - floor) for each in clamped[1:]) < 1e-3)
    found.append(floor - 4 > direct[1] > -torch.inf and direct[2] == -torch.inf)

logits = torch.randn(1000, generator=torch.Generator().manual_seed(0)).bfloat16().requires_grad_()
policies = {"probs": lambda: Categorical(probs=logits.softmax(-1)), "logits": lambda: Categorical(logits=logits)}
rarer = logits.softmax(-1) < torch.finfo(torch.bfloat16).eps
share = logits.detach().float().softmax(-1)[rarer].sum().item()
token = rarer.nonzero()[0, 0]
print(f"1000 tokens with normal logits in bfloat16: of those sampled, {share:.0%} are rarer than the floor")
entropies, gradients = {}, {}
for name, policy in policies.items():
    entropies[name] = policy().entropy().item()
    (gradient,) = torch.autograd.grad(policy().log_prob(token), logits)
    gradients[name] = gradient.float().norm().item()
    print(f"  by {name}: entropy {entropies[name]:.2f}, gradient of one such token's log-probability {gradients[name]:.2f}")
found += [share > 0.5, entropies["probs"] < entropies["logits"] - 1, gradients["probs"] == 0, gradients["logits"] > 0.5]
if not all(found):
    sys.exit("changed: see the lines above")
PY
"$work/venv/bin/python" "$work/look.py"
