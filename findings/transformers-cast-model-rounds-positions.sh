#!/usr/bin/env bash
# One would guess: from_pretrained(dtype=torch.bfloat16) and from_pretrained(dtype=torch.float32).to(torch.bfloat16) make the
# same model: each weight is rounded once, and nothing else is there to round.
# What happens in transformers 5.23.0: the frequencies of the rotary positions (inv_freq) are a buffer that no file holds.
# Loading in bfloat16 or float16 leaves them in float32; .to() of a loaded model rounds them to 8 or 11 significant
# bits. The forward computes the angles in float32 from what is left, and multiplies the error by the position. All
# weights of the two models are equal to the bit and their logits differ, the more the further on. Where a policy is made
# in one way and its reference in the other, the KL divergence between them is above zero before the first step. The
# state_dict is no help: the buffer is not in it, so that saving and loading, or comparing, finds nothing.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.4.6 torch==2.13.0 transformers==5.23.0 tokenizers==0.23.3 2>/dev/null
cat > "$work/look.py" <<'PY'
import sys
import tempfile

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

transformers.logging.disable_progress_bar()
torch.manual_seed(0)
sizes = dict(vocab_size=64, hidden_size=64, intermediate_size=96, num_attention_heads=2, num_hidden_layers=2)
ids = torch.randint(3, 64, (1, 1500))


@torch.no_grad()
def log_probs(model: LlamaForCausalLM) -> torch.Tensor:
    return model(ids).logits[0].double().log_softmax(-1)


print("torch", torch.__version__, "transformers", transformers.__version__)
found = []
with tempfile.TemporaryDirectory() as folder:
    LlamaForCausalLM(LlamaConfig(**sizes, initializer_range=0.2)).save_pretrained(folder)
    for dtype in (torch.bfloat16, torch.float16):
        loaded = LlamaForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        cast = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).to(dtype).eval()
        states = loaded.state_dict(), cast.state_dict()
        equal = all(torch.equal(states[0][name], states[1][name]) for name in states[0] | states[1])
        frequencies = [model.model.rotary_emb.inv_freq.dtype for model in (loaded, cast)]
        one, other = log_probs(loaded), log_probs(cast)
        kl = (one.exp() * (one - other)).sum(-1)
        print(f"{dtype}: state_dicts are equal: {equal} | inv_freq loaded and cast:", *frequencies)
        print(f"  mean KL of positions 1 to 8: {kl[1:9].mean():.1e}, of 1000 to 1499: {kl[1000:].mean():.1e} nats a token")
        found.append(equal and frequencies == [torch.float32, dtype] and kl[1000:].mean() > 4 * kl[1:9].mean())
        found.append(kl[1000:].mean() > (1e-3 if dtype == torch.bfloat16 else 1e-5))
        cast.model.rotary_emb.inv_freq = loaded.model.rotary_emb.inv_freq
        found.append(torch.equal(log_probs(cast), one))
        print("  with the other's inv_freq the logits are equal:", found[-1])
if not all(found):
    sys.exit("changed: see the lines above")
PY
"$work/venv/bin/python" "$work/look.py" 2>/dev/null
