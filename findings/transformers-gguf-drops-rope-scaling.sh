#!/usr/bin/env bash
# One would guess: from_pretrained(gguf_file=...) makes the model that the file holds, with the scaling of its rotary positions: the
# file says it, by the keys *.rope.scaling.* (linear, YaRN) or by a tensor of factors, rope_freqs.weight (Llama 3.1 and later).
# What happens in transformers 5.23.0: of the Llama architecture none of the three is read. The configuration says
# rope_type "default", the tensor of factors is left out, and nothing is said. What is loaded has the logits of the model
# without scaling, which is right at position 0 and another model soon after, at short lengths too. So a reference or
# a teacher that comes from a GGUF file is not the policy that comes from the same model's safetensors.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.4.6 torch==2.13.0 transformers==5.23.0 tokenizers==0.23.3 accelerate==1.15.0 \
  gguf==0.19.0 2>/dev/null
cat > "$work/look.py" <<'PY'
import sys
from pathlib import Path

import gguf
import torch
import transformers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

transformers.logging.disable_progress_bar()
folder = Path(sys.argv[1])
BLOCKS, HEADS, WIDTH, CONTEXT = 2, 2, 64, 512
PLAIN = {"rope_type": "default", "rope_theta": 1e4}
YARN = {"factor": 8.0, "original_max_position_embeddings": 64}
KINDS = {
    "default": PLAIN,
    "linear": PLAIN | {"rope_type": "linear", "factor": 8.0},
    "yarn": PLAIN | YARN | {"rope_type": "yarn"},
    "llama3": PLAIN | YARN | {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0},
}


def make(rope: dict) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = dict(vocab_size=64, hidden_size=WIDTH, intermediate_size=96, num_attention_heads=HEADS, num_hidden_layers=BLOCKS)
    config = LlamaConfig(**sizes, max_position_embeddings=CONTEXT, initializer_range=0.2, rope_parameters=dict(rope))
    return LlamaForCausalLM(config).eval()


def write(path: Path, model: LlamaForCausalLM, kind: str) -> None:
    """The file as llama.cpp's converter lays it out: rows of queries and keys by pairs, and the scaling where it is due."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(BLOCKS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(96)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(1e4)
    writer.add_vocab_size(64)
    if kind in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
        writer.add_rope_scaling_factor(8.0)
    if kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(64)
    if kind == "llama3":
        factors = make(PLAIN).model.rotary_emb.inv_freq / model.model.rotary_emb.inv_freq
        writer.add_tensor("rope_freqs.weight", factors.numpy())
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, BLOCKS)
    for name, weight in model.state_dict().items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            weight = weight.view(HEADS, 2, -1, WIDTH).transpose(1, 2).reshape(WIDTH, WIDTH)
        writer.add_tensor(names.get_name(name, (".weight",)), weight.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@torch.no_grad()
def log_probs(model: LlamaForCausalLM) -> torch.Tensor:
    ids = torch.randint(0, 64, (1, 60), generator=torch.Generator().manual_seed(1))
    return model(ids).logits[0].double().log_softmax(-1)


print("torch", torch.__version__, "transformers", transformers.__version__)
found = {}
for kind, rope in KINDS.items():
    packed = make(rope)
    write(folder / f"{kind}.gguf", packed, kind)
    loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file=f"{kind}.gguf").eval()
    right, read, plain = log_probs(packed), log_probs(loaded), log_probs(make(PLAIN))
    kl = (right.exp() * (right - read)).sum(-1)[30:].mean().item()
    unscaled = (read - plain).abs().max().item() < 1e-4
    print(f"{kind}: read as rope_type {loaded.config.rope_parameters['rope_type']}, logits of no scaling: {unscaled}, "
          f"mean KL to the packed model at positions 30 to 59: {kl:.1e} nats a token")
    found[kind] = (loaded.config.rope_parameters["rope_type"], unscaled, kl > 1e-2)
if found != {kind: ("default", True, kind != "default") for kind in KINDS}:
    sys.exit("changed: see the lines above")
PY
"$work/venv/bin/python" "$work/look.py" "$work" 2> "$work/said" || { cat "$work/said"; exit 1; }
if grep -qi "rope\|scal\|unexpected" "$work/said"; then
    echo "changed: it is said"
    exit 1
fi
