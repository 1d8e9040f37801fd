"""Suite `architectures`: does what is sampled from a model come from the distributions that score it?

Each architecture of the list is made tiny and at random. Completions of prompts of unequal length are sampled from it
in one batch with a KV cache, and their statistics are taken three times: while sampling; by scoring all completions in
one batch, through the fused head where there is one; and from the float64 softmax of the logits of each text alone,
from a copy of the model whose weights are float64. It needs no GPU and no network.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from benchmarks.runner import Options, Step
from rlif.errors import UserError
from rlif.models.fused_head import fused_head
from rlif.models.language_model import LanguageModel
from rlif.rollouts.decoding_check import check_decoding
from rlif.rollouts.encode import EncodedPrompt
from rlif.rollouts.rollout import Rollout
from rlif.rollouts.sample import sample
from rlif.scoring.scorer import Scorer
from rlif.tasks.tokenizer import build_tokenizer

EOS, TEMPERATURE = 1, 0.7
FIELDS = ("logprob", "entropy", "self_certainty")
PROMPTS = ([5, 6, 7, 8, 9, 10, 11], [12], [13, 14, 15])
COMMON = dict(
    vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.3, pad_token_id=0, eos_token_id=EOS,
    bos_token_id=None,
)  # fmt: skip
EXPERTS = dict(num_experts=4, num_local_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
LATENT = dict(kv_lora_rank=8, q_lora_rank=8, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8)
GPT2_NAMES = dict(n_embd=32, n_layer=2, n_head=4, n_positions=64)
SCALED = dict(embedding_multiplier=2.0, residual_multiplier=0.5, attention_multiplier=0.4)

# What to call it, transformers' model type, what is special about it, and settings beside those of all.
ARCHITECTURES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "Llama": ("llama", "grouped queries", {}),
    "Llama, dropout": ("llama", "a dropout that must stay off", {"attention_dropout": 0.5}),
    "Mistral": ("mistral", "sliding window shorter than the texts", {"sliding_window": 4}),
    "Mixtral": ("mixtral", "experts", EXPERTS),
    "Qwen2": ("qwen2", "biases in attention", {}),
    "Qwen3": ("qwen3", "norms of queries and keys, tied head", {"head_dim": 8, "tie_word_embeddings": True}),
    "Qwen3 MoE": ("qwen3_moe", "experts", EXPERTS | {"head_dim": 8}),
    "Gemma": ("gemma", "scaled embeddings, tied head", {"head_dim": 8}),
    "Gemma 2": (
        "gemma2", "softcaps of attention and logits, sliding window",
        {"head_dim": 8, "final_logit_softcapping": 2.0, "attn_logit_softcapping": 5.0, "sliding_window": 4},
    ),
    "Gemma 3": (
        "gemma3_text", "one layer local, one global",
        {"head_dim": 8, "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "GPT-2": ("gpt2", "learnt positions, tied head", GPT2_NAMES),
    "GPT-NeoX": ("gpt_neox", "parallel residuals", {}),
    "OPT": ("opt", "learnt positions with an offset", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "BLOOM": ("bloom", "ALiBi", {"n_layer": 2, "n_head": 4}),
    "Falcon": ("falcon", "one key for all queries", {"alibi": False}),
    "Phi": ("phi", "a bias in the head", {}),
    "Phi-3": ("phi3", "sliding window", {"sliding_window": 4}),
    "StableLM": ("stablelm", "rotation of a part", {}),
    "StarCoder2": ("starcoder2", "sliding window", {"sliding_window": 4}),
    "Cohere": ("cohere", "scaled logits", {"logit_scale": 0.25}),
    "Cohere2": ("cohere2", "scaled logits, sliding window", {"logit_scale": 0.25, "sliding_window": 4, "head_dim": 8}),
    "Granite": ("granite", "four multipliers", SCALED | {"logits_scaling": 4.0}),
    "Granite MoE": ("granitemoe", "experts, four multipliers", SCALED | EXPERTS | {"logits_scaling": 4.0}),
    "OLMo 2": ("olmo2", "norms after the layers", {}),
    "SmolLM3": ("smollm3", "layers without positions", {"no_rope_layers": [1, 0]}),
    "DeepSeek-V3": (
        "deepseek_v3", "latent attention, experts",
        EXPERTS | LATENT | {"num_key_value_heads": 4, "n_routed_experts": 4, "n_group": 1, "topk_group": 1,
                            "first_k_dense_replace": 1, "head_dim": 8},
    ),
    "gpt-oss": ("gpt_oss", "attention sinks, experts, sliding window", EXPERTS | {"head_dim": 8, "sliding_window": 4}),
    "GLM-4": ("glm4", "rotation of a part", {"head_dim": 8}),
    "Nemotron": ("nemotron", "squared ReLU", {"head_dim": 8}),
    "Mamba": ("mamba", "a recurrent state, no keys and values", {"state_size": 4}),
    "RecurrentGemma": ("recurrent_gemma", "a recurrent state beside the cache", {"lru_width": 32, "head_dim": 8}),
    "Jamba": ("jamba", "a recurrent state in some layers", EXPERTS | {"attn_layer_period": 2, "attn_layer_offset": 1}),
    "LFM2": ("lfm2", "convolutions with a state", {"layer_types": ["conv", "full_attention"]}),
}  # fmt: skip


def steps(options: Options) -> list[Step]:
    return [Step(name, 1, partial(measure, name)) for name in ARCHITECTURES]


def measure(name: str, results: dict[str, Any]) -> str:
    found = check(name)
    results["entries"].append({"name": name, "type": ARCHITECTURES[name][0], "special": ARCHITECTURES[name][1]} | found)
    if found["refused"]:
        return f"refused: {found['refused']}"
    return f"sampled {found['sampled']:.1e}, scored {found['scored']:.1e} nats from float64"


def make(name: str) -> PreTrainedModel:
    """Make the model, at random, in evaluation mode as all models are loaded."""
    model_type, _, settings = ARCHITECTURES[name]
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **(COMMON | settings))
    model = AutoModelForCausalLM.from_config(config, trust_remote_code=False).eval()
    bias = getattr(model.get_output_embeddings(), "bias", None)
    if bias is not None:  # it starts at 0, where it could not be missed
        torch.nn.init.normal_(bias)
    return model


def check(name: str) -> dict[str, Any]:
    """Compare the three ways; or say why the model is refused.

    Returns:
        refused: why, or None. head: "fused", or why not. sampled and scored: the largest difference from float64 of any
        field of any token, in nats. tokens: how many there were.
    """
    model = make(name)
    language_model = LanguageModel(model, build_tokenizer(), (EOS,), 0)
    try:
        check_decoding(language_model, PROMPTS[0])
    except UserError as error:
        return {"refused": str(error)}
    try:
        head, said = fused_head(model), "fused"
    except UserError as error:
        head, said = None, str(error)
    rollout = sample(
        language_model,
        [EncodedPrompt(str(number), None, ids) for number, ids in enumerate(PROMPTS)],
        num_generations=4,
        max_completion_length=12,
        temperature=TEMPERATURE,
        seeds=[(number,) for number in range(len(PROMPTS))],
        outputs=FIELDS,
    )
    with torch.no_grad():
        scored = Scorer(model, head)(rollout, TEMPERATURE, outputs=FIELDS)
        expected = in_float64(copy.deepcopy(model).double(), rollout)
    found: dict[str, Any] = {"refused": None, "head": said, "tokens": int(rollout.completion_mask.sum())}
    for way, stats in (("sampled", rollout.stats), ("scored", scored)):
        gaps = [(getattr(stats, field) - expected[field]).abs().max().item() for field in FIELDS]
        found[way] = max(gaps)
    return found


def in_float64(model: PreTrainedModel, rollout: Rollout) -> dict[str, Tensor]:
    """Compute the statistics of each completion by itself, without padding and without a cache: (N, T) each."""
    model.config._experts_implementation = "eager"  # the others' products of groups have no float64
    found = {field: torch.zeros(rollout.completion_ids.shape, dtype=torch.float64) for field in FIELDS}
    for row, (prompt, length) in enumerate(zip(*rollout.lengths(), strict=True)):
        completion = rollout.completion_ids[row, :length]
        ids = torch.cat([rollout.prompt_ids[row, rollout.prompt_ids.shape[1] - prompt :], completion])[None]
        logits = model(input_ids=ids, use_cache=False).logits[0, prompt - 1 : -1].double() / TEMPERATURE
        logprobs = logits.log_softmax(-1)
        found["logprob"][row, :length] = logprobs.gather(1, completion[:, None]).squeeze(1)
        found["entropy"][row, :length] = -(logprobs.exp() * logprobs).sum(-1)
        vocab_size = torch.tensor(logprobs.shape[-1], dtype=torch.float64)
        found["self_certainty"][row, :length] = -logprobs.mean(-1) - vocab_size.log()
    return found
