"""Tiny random models of many architectures, and a context in which none of them computes in less than float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

# Two layers; a window is shorter than some prompts, and than prompt and completion together.
_SIZES = dict(
    vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, max_position_embeddings=64, initializer_range=0.3, pad_token_id=0,
    eos_token_id=1, bos_token_id=None,
)  # fmt: skip
_WINDOW = 6
# What each has of its own: positions, windows, caps, sinks, norms, biases, shared keys.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"tie_word_embeddings": True},
    "gemma2": {"attn_logit_softcapping": 2.0, "sliding_window": _WINDOW, "query_pre_attn_scalar": 8},
    "gemma3_text": {"sliding_window": _WINDOW, "query_pre_attn_scalar": 8, "sliding_window_pattern": 2},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "resid_pdrop": 0.0},
    "gpt_neox": {"rotary_pct": 0.5},
    "phi3": {},
    "mistral": {"sliding_window": _WINDOW},
    "olmo2": {},
    "smollm3": {"no_rope_layers": [1, 0]},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "llama4_text": {
        "intermediate_size_mlp": 48, "num_local_experts": 2, "num_experts_per_tok": 1, "attention_chunk_size": 16,
        "no_rope_layers": [1, 0], "attn_temperature_tuning": False,
    },
    "gpt_oss": {
        "sliding_window": _WINDOW, "num_local_experts": 2, "num_experts_per_tok": 1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    },
}  # fmt: skip


def tiny_model(architecture: str, dtype: torch.dtype = torch.float64, **changes: Any) -> PreTrainedModel:
    """A random model in evaluation mode."""
    config = AutoConfig.for_model(architecture, **_SIZES | ARCHITECTURES[architecture] | changes)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).to(dtype).eval()
    model.config._experts_implementation = "eager"  # the fused product of experts has no float64
    return model


class InFloat64(TorchFunctionMode):
    """Within, what a model computes in float32 whatever its weights are, norms and softmax say, is in float64."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        wide = [torch.float64 if each is torch.float32 else each for each in args]
        return func(*wide, **{k: torch.float64 if v is torch.float32 else v for k, v in (kwargs or {}).items()})
