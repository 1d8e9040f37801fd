"""verl's own FSDP engine on a CPU, in a world of one process, on a small random model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import Qwen2Config, Qwen2ForCausalLM
from verl.plugin.platform.platform_cuda import PlatformCUDA
from verl.plugin.platform.platform_manager import set_platform
from verl.trainer.config import CheckpointConfig
from verl.utils import tensordict_utils
from verl.workers.config import FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig
from verl.workers.engine import EngineRegistry

VOCAB_SIZE = 97
LENGTHS = (7, 4, 6, 9)
RESPONSE_LENGTHS = (3, 2, 3, 4)


class CPUPlatform(PlatformCUDA):
    """verl asks its platform where to compute; it comes with accelerators alone, and takes others."""

    device_name = "cpu"
    device_module = torch.cpu

    def is_available(self) -> bool:
        return True

    def current_device(self) -> str:
        return "cpu"

    def communication_backend_name(self) -> str:
        return "gloo"

    def empty_cache(self) -> None:
        pass

    def synchronize(self, device_index: int | None = None) -> None:
        pass


def start(directory: Path) -> None:
    set_platform(CPUPlatform())
    os.environ["VERL_ENGINE_DEVICE"] = "cuda"  # the FSDP engine is registered for accelerators
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.FileStore(str(directory / "store"), 1), rank=0, world_size=1)


def save_model(directory: Path) -> Qwen2ForCausalLM:
    """A model whose distributions are neither flat nor certain. Its embeddings are tied: see `fsdp_engine`."""
    config = Qwen2Config(
        vocab_size=VOCAB_SIZE, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.5, tie_word_embeddings=True,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).eval()
    model.save_pretrained(directory)
    return model


@contextmanager
def fsdp_engine(
    model: Path, *, fused: bool, packed: bool, external_lib: str | None = None, param_dtype: str = "fp32"
) -> Iterator[Any]:
    """verl's FSDP2 engine on float32 weights.

    Its fused heads read the head's weight, which FSDP2 shards where it is not tied. They replace the forward of the
    model's class, which is put back at the end.
    """
    forward = Qwen2ForCausalLM.forward
    model_config = HFModelConfig(
        path=str(model),
        load_tokenizer=False,
        external_lib=external_lib,
        override_config={"attn_implementation": "sdpa"},
        use_remove_padding=packed,
        use_fused_kernels=fused,
        fused_kernel_options={"impl_backend": "torch"},
        enable_gradient_checkpointing=False,
    )
    engine_config = FSDPEngineConfig(
        strategy="fsdp2",
        forward_only=False,
        use_torch_compile=False,
        mixed_precision={"param_dtype": param_dtype, "reduce_dtype": "fp32"},
        model_dtype="fp32",
        use_remove_padding=packed,
        use_fused_kernels=fused,
    )
    engine = EngineRegistry.new(
        model_type="language_model",
        backend="fsdp2",
        model_config=model_config,
        engine_config=engine_config,
        optimizer_config=FSDPOptimizerConfig(lr=1e-2, total_training_steps=10, weight_decay=0.0),
        checkpoint_config=CheckpointConfig(),
    )
    engine.initialize()
    yield engine
    Qwen2ForCausalLM.forward = forward


def jagged(rows: list[torch.Tensor]) -> torch.Tensor:
    return torch.nested.as_nested_tensor(rows, layout=torch.jagged)


def batch(*, fused: bool, packed: bool, temperature: float = 0.7, **settings: Any) -> Any:
    """Sequences of `LENGTHS` random tokens, the last `RESPONSE_LENGTHS` of them responses, two to a micro-batch."""
    generator = torch.Generator().manual_seed(1)
    return tensordict_utils.get_tensordict(
        {
            "input_ids": jagged([torch.randint(VOCAB_SIZE, (n,), generator=generator) for n in LENGTHS]),
            "position_ids": jagged([torch.arange(n) for n in LENGTHS]),
            "loss_mask": jagged([torch.ones(n) for n in RESPONSE_LENGTHS]),
            "response_mask": jagged([torch.ones(n) for n in RESPONSE_LENGTHS]),
        },
        non_tensor_dict={
            "temperature": temperature,
            "use_remove_padding": packed,
            "use_fused_kernels": fused,
            "use_dynamic_bsz": False,
            "micro_batch_size_per_gpu": 2,
            **settings,
        },
    )
