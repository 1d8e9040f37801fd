"""What the steps are measured on: a random model, prompts of random words, and clocks around what trainers call."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM, TrainerCallback

Result = TypeVar("Result")


@dataclass(frozen=True)
class Workload:
    """A model and the work that is done with it."""

    vocab_size: int = 32000
    hidden_size: int = 256
    intermediate_size: int = 0
    """0: twice the hidden size."""
    num_layers: int = 4
    num_heads: int = 4
    num_key_value_heads: int = 2
    prompts: int = 8
    num_generations: int = 8
    prompt_length: int = 16
    max_completion_length: int = 64
    steps: int = 4
    rows: int = 0
    """Completions that trainers learn from at a time, adding up gradients; 0: all of a step, or what is the default."""
    beta: float = 0.0
    learning_rate: float = 1e-6
    device: str = "cpu"
    dtype: str = "float32"
    autocast: bool = False
    """In bfloat16, of TRL's trainers."""

    def tokens_per_forward(self, *, share_prompts: bool) -> int:
        """Those of `rows` completions with their prompts, which count once each where they are shared."""
        prompts = math.ceil(self.rows / self.num_generations) if share_prompts else self.rows
        return prompts * self.prompt_length + self.rows * self.max_completion_length


SIZES = {
    "full": Workload(),
    "quick": Workload(vocab_size=8000, num_layers=2, prompts=4, num_generations=4, max_completion_length=24, steps=3),
    "tiny": Workload(
        vocab_size=50, hidden_size=16, num_layers=1, prompts=2, num_generations=2, prompt_length=3,
        max_completion_length=4, steps=2,
    ),
}  # fmt: skip
# The shape of Qwen2.5-0.5B, for a GPU.
HALF_BILLION = Workload(
    vocab_size=151936, hidden_size=896, intermediate_size=4864, num_layers=24, num_heads=14,
    max_completion_length=256, dtype="bfloat16",
)  # fmt: skip


def workload(device: str, size: str) -> Workload:
    """What fits the device and the size of the run."""
    sizes = HALF_BILLION if device == "cuda" and size == "full" else SIZES[size]
    return replace(sizes, device=device)


def random_model(work: Workload) -> tuple[Qwen3ForCausalLM, PreTrainedTokenizerFast]:
    """A Qwen3-like model, and a tokenizer that knows padding, end, unknown, and the words w3, w4, … as ids 3, 4, …"""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=work.vocab_size,
        hidden_size=work.hidden_size,
        intermediate_size=work.intermediate_size or 2 * work.hidden_size,
        num_hidden_layers=work.num_layers,
        num_attention_heads=work.num_heads,
        num_key_value_heads=work.num_key_value_heads,
        head_dim=work.hidden_size // work.num_heads,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    special = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    vocabulary = [*special.values(), *(f"w{i}" for i in range(len(special), work.vocab_size))]
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return Qwen3ForCausalLM(config), PreTrainedTokenizerFast(tokenizer_object=words, **special)


def save_model(work: Workload, directory: Path) -> None:
    with torch.device(work.device):  # a GPU draws the weights of a large model at once
        model, tokenizer = random_model(work)
    model.to(getattr(torch, work.dtype)).save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def random_words(work: Workload, draw: random.Random, count: int) -> str:
    return " ".join(f"w{draw.randrange(3, work.vocab_size)}" for _ in range(count))


def make_prompts(work: Workload) -> list[str]:
    """Fresh prompts for every step, all of one length."""
    draw = random.Random(0)
    return [random_words(work, draw, work.prompt_length) for _ in range(work.prompts * work.steps)]


def now() -> float:
    """Seconds, once a GPU has done what it was told."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def timed(function: Callable[..., Result], seconds: list[float]) -> Callable[..., Result]:
    """Return the function, which then adds to the list how long each call took."""

    def wrapper(*args: Any, **kwargs: Any) -> Result:
        started = now()
        result = function(*args, **kwargs)
        seconds.append(now() - started)
        return result

    return wrapper


def time_in(module: object, name: str, seconds: list[float]) -> None:
    """Time what a module or class calls, by the name under which it calls it."""
    setattr(module, name, timed(getattr(module, name), seconds))


class StepTimer(TrainerCallback):
    """Times every step of a trainer of transformers, the optimizer's included."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *args: object, **kwargs: object) -> None:
        self.started = now()

    def on_step_end(self, *args: object, **kwargs: object) -> None:
        self.seconds.append(now() - self.started)
