#!/usr/bin/env bash
# One would guess: a 4D attention mask says what may be attended to at most, and a layer with a sliding window narrows it.
# And that position_ids, which tell transformers that a row is packed, can also let several completions go on from one
# prompt, each at the prompt's length.
# What happens in transformers 5.23.0: a 4D mask is taken as it comes for layers of every kind, so that a model with a
# window attends beyond it without a word. Position ids part a row wherever they do not rise by one, but only where no
# cache is made: with use_cache=False the first completion sees the prompt and all others see themselves alone, while by
# default (use_cache=True) the same call parts nothing and gives other logits. What serves instead is a mask function of
# one's own in ALL_MASK_ATTENTION_FUNCTIONS: it is given the function of query and key that each kind of layer masks by.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.4.0 torch==2.13.0 transformers==5.23.0 2>/dev/null
cat > "$work/look.py" <<'PY'
import sys

import torch
import transformers
from transformers import MistralConfig, MistralForCausalLM

torch.manual_seed(0)
sizes = dict(vocab_size=40, hidden_size=32, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2)
model = MistralForCausalLM(
    MistralConfig(**sizes, num_hidden_layers=2, sliding_window=4, initializer_range=0.3)
).eval()
ids = torch.arange(12)[None]


def same(a, b):
    return bool((a - b).abs().max() < 1e-4)


found = {}
with torch.no_grad():
    windowed = model(ids).logits
    causal = torch.ones(1, 1, 12, 12, dtype=torch.bool).tril()
    masked = model(ids, attention_mask=causal).logits
    # A prompt of four tokens and two completions of four.
    prompt, first, second = torch.arange(12).split(4)
    row = torch.cat([prompt, first, second])[None]
    positions = torch.tensor([[*range(8), *range(4, 8)]])
    packed = model(row, position_ids=positions, use_cache=False).logits[0]
    with_cache = model(row, position_ids=positions).logits[0]
    alone = [model(torch.cat([prompt, each])[None]).logits[0, 4:] for each in (first, second)]
    orphan = model(second[None], position_ids=torch.arange(4, 8)[None]).logits[0]
    found["the first completion sees the prompt"] = same(packed[4:8], alone[0])
    found["the second sees it"] = same(packed[8:], alone[1])
    found["the second sees itself alone"] = same(packed[8:], orphan)
    found["with a cache the second is the same"] = same(with_cache[8:], packed[8:])
    found["a 4D causal mask keeps the window"] = same(masked, windowed)
    model.config.sliding_window = None
    found["a 4D causal mask gives what no window gives"] = same(masked, model(ids).logits)
print("transformers", transformers.__version__)
for what, is_so in found.items():
    print(f"{what}: {is_so}")
expected = [True, False, True, False, False, True]
sys.exit(0 if list(found.values()) == expected else "changed: transformers masks in another way")
PY
"$work/venv/bin/python" "$work/look.py"
