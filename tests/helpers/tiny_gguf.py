"""A tiny random model in a GGUF file, as llama.cpp's converter writes it. Needs the package gguf."""

from __future__ import annotations

from pathlib import Path

import gguf
import torch
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

# Byte-level BPE spells a space Ġ and a line break Ċ; "+=" is there to be merged.
TOKENS = ["<pad>", "<eos>", "<turn>", *"0123456789+=", "+=", "Ġ", "Ċ", "[PAD18]", "[PAD19]"]
PAD, EOS, TURN = 0, 1, 2
TEMPLATE = "{% for message in messages %}{{ message.content }}<turn>{% endfor %}"


def make_qwen2() -> PreTrainedModel:
    """The model that `write_gguf` packs: its biases are not 0."""
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(TOKENS),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            initializer_range=0.3,
            rms_norm_eps=2.0**-20,
            rope_theta=1e4,
            tie_word_embeddings=False,
        )
    )
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(weight)
    return model.eval()


def write_gguf(path: Path, model: PreTrainedModel, *, packed: bool = False, stretched: float | None = None) -> Path:
    """Write the model and a tokenizer; `packed`: matrices in blocks of 8 bits; `stretched`: the factor of positions."""
    config = model.config
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(1e4)
    if stretched is not None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(stretched)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(TOKENS)
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_token_types([control if token.startswith("<") else normal for token in TOKENS])
    writer.add_token_merges(["+ ="])
    writer.add_eos_token_id(EOS)
    writer.add_eot_token_id(TURN)
    writer.add_pad_token_id(PAD)
    writer.add_chat_template(TEMPLATE)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        stem, suffix = name.rsplit(".", 1)
        values = weight.numpy()
        if packed and weight.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(f"{names.get_name(stem)}.{suffix}", gguf.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(f"{names.get_name(stem)}.{suffix}", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
