"""Tokens per second of the whole training step (sample, score, update): ours, and TRL's GRPOTrainer.

    python -m benchmarks.training_step --implementation rlif [--steps 4] [--beta 0]

The suite `loop` runs each in a fresh process and keeps what this prints. Both train the same random model on the same
prompts with the same group, lengths and loss, on self-certainty. TRL's rewards are functions of the completions, so
that this one needs a forward of its own; ours comes from the forward that carries the gradient, so that scoring and
update are one phase. The first step warms up; figures are medians over the others. Peak memory is that of the process,
libraries included; on a GPU what torch allocates.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from benchmarks.memory import resident_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Result = TypeVar("Result")


@dataclasses.dataclass
class Workload:
    """What is trained, and on how much."""

    vocab_size: int = 32000
    hidden_size: int = 256
    intermediate_size: int = 0  # 0: twice the hidden size
    num_layers: int = 4
    num_heads: int = 4
    prompts: int = 8
    num_generations: int = 8
    prompt_length: int = 16
    max_completion_length: int = 64
    steps: int = 4
    beta: float = 0.0
    learning_rate: float = 1e-6
    device: str = "cpu"
    dtype: str = "float32"


# The shape of Qwen2.5-0.5B, for a GPU.
HALF_BILLION = Workload(
    vocab_size=151936,
    hidden_size=896,
    intermediate_size=4864,
    num_layers=24,
    num_heads=14,
    max_completion_length=256,
    device="cuda",
    dtype="bfloat16",
)


def make_model(workload: Workload, directory: Path) -> None:
    """A random Qwen3-like model whose tokenizer knows the words w3, w4, …"""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=workload.vocab_size,
        hidden_size=workload.hidden_size,
        intermediate_size=workload.intermediate_size or 2 * workload.hidden_size,
        num_hidden_layers=workload.num_layers,
        num_attention_heads=workload.num_heads,
        num_key_value_heads=2,
        head_dim=workload.hidden_size // workload.num_heads,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    Qwen3ForCausalLM(config).save_pretrained(directory)
    word_tokenizer(workload.vocab_size).save_pretrained(directory)


def word_tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """Padding, end, unknown, and the words w3, w4, … as ids 3, 4, …"""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    vocabulary = [*special.values(), *(f"w{i}" for i in range(len(special), vocab_size))]
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, **special)


def make_prompts(workload: Workload) -> list[str]:
    """Fresh prompts for every step, all of one length."""
    words = random.Random(0)
    return [
        " ".join(f"w{words.randrange(3, workload.vocab_size)}" for _ in range(workload.prompt_length))
        for _ in range(workload.prompts * workload.steps)
    ]


def timed(function: Callable[..., Result], seconds: list[float]) -> Callable[..., Result]:
    """The function, which then adds to the list how long each call took."""

    def wrapper(*args: Any, **kwargs: Any) -> Result:
        started = now()
        result = function(*args, **kwargs)
        seconds.append(now() - started)
        return result

    return wrapper


def now() -> float:
    """Seconds, once a GPU has done what it was told."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def run_rlif(workload: Workload, directory: Path) -> list[dict[str, float]]:
    """What `rlif train` does; seconds and tokens of every step."""
    from rlif.training import loop as trainer
    from rlif.training.options import TrainConfig

    make_model(workload, directory / "model")
    data = directory / "prompts.jsonl"
    data.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in make_prompts(workload)))
    sampling: list[float] = []
    # The benchmark times what the loop calls, by the name under which it calls it.
    vars(trainer)["sample"] = timed(vars(trainer)["sample"], sampling)
    config = TrainConfig(
        model=str(directory / "model"),
        data=str(data),
        reward=("self_certainty",),
        output_dir=directory / "run",
        max_steps=workload.steps,
        prompts_per_step=workload.prompts,
        num_generations=workload.num_generations,
        max_completion_length=workload.max_completion_length,
        learning_rate=workload.learning_rate,
        beta=workload.beta,
        guard="off",  # which peers do not have, and which is no part of a step
        device=workload.device,
        dtype="bfloat16" if workload.dtype == "bfloat16" else "float32",
    )
    trainer.train(config)
    rows = [json.loads(line) for line in (directory / "run" / "metrics.jsonl").read_text().splitlines()]
    return [
        {
            "sampling": seconds,
            "scoring and update": row["step_seconds"] - seconds,
            "step": row["step_seconds"],
            "tokens": row["completion_length"] * workload.prompts * workload.num_generations,
        }
        for row, seconds in zip(rows, sampling, strict=True)
    ]


def self_certainty(model: torch.nn.Module, prompt_ids: Tensor, completion_ids: Tensor, rows: int = 8) -> list[float]:
    """Mean over each completion's tokens of KL(Uniform ‖ p), from a forward of that many completions at a time."""
    rewards: list[float] = []
    length = completion_ids.shape[1]
    for prompt, completion in zip(prompt_ids.split(rows), completion_ids.split(rows), strict=True):
        with torch.no_grad():
            ids = torch.cat([prompt, completion], dim=1)
            logits = model(input_ids=ids, use_cache=False, logits_to_keep=length + 1).logits[:, :-1].float()
            certainty = logits.logsumexp(-1) - logits.mean(-1) - math.log(logits.shape[-1])
        rewards += certainty.mean(-1).tolist()
    return rewards


def grpo_options(workload: Workload, directory: Path) -> dict[str, Any]:
    """What every GRPOConfig here has in common, but for the device and its precision."""
    return {
        "output_dir": str(directory / "run"),
        "max_steps": workload.steps,
        "per_device_train_batch_size": workload.prompts * workload.num_generations,
        "gradient_accumulation_steps": 1,
        "num_generations": workload.num_generations,
        "max_completion_length": workload.max_completion_length,
        "learning_rate": workload.learning_rate,
        "beta": workload.beta,
        "loss_type": "dapo",
        "temperature": 1.0,
        "gradient_checkpointing": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
    }


def run_trl(workload: Workload, directory: Path) -> list[dict[str, float]]:
    """Train with TRL's GRPOTrainer, gradient checkpointing off; seconds and tokens of every step."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    make_model(workload, directory / "model")
    model = AutoModelForCausalLM.from_pretrained(directory / "model", dtype=getattr(torch, workload.dtype))
    tokenizer = AutoTokenizer.from_pretrained(directory / "model", padding_side="left")
    sampling: list[float] = []
    scoring: list[float] = []
    whole: list[float] = []
    tokens: list[int] = []

    def reward(prompts: list[str], completion_ids: list[list[int]], **kwargs: object) -> list[float]:
        tokens.append(sum(map(len, completion_ids)))
        length = max(map(len, completion_ids))
        # A random model hardly ever ends before the limit; the few tokens of padding cost what real ones would.
        padded = torch.tensor([ids + [0] * (length - len(ids)) for ids in completion_ids], device=model.device)
        return self_certainty(model, tokenizer(prompts, return_tensors="pt")["input_ids"].to(model.device), padded)

    class Watch(TrainerCallback):
        """Times every step, the optimizer's included."""

        def on_step_begin(self, *args: object, **kwargs: object) -> None:
            self.started = now()

        def on_step_end(self, *args: object, **kwargs: object) -> None:
            whole.append(now() - self.started)

    trainer = GRPOTrainer(
        model=model,
        reward_funcs=reward,
        args=GRPOConfig(**grpo_options(workload, directory), bf16=False, use_cpu=workload.device == "cpu"),
        train_dataset=Dataset.from_dict({"prompt": make_prompts(workload)}),
        processing_class=tokenizer,
        callbacks=[Watch()],
    )
    trainer._generate = timed(trainer._generate, sampling)
    trainer._calculate_rewards = timed(trainer._calculate_rewards, scoring)
    trainer.train()
    return [
        {"sampling": sample, "scoring": score, "update": step - sample - score, "step": step, "tokens": count}
        for sample, score, step, count in zip(sampling, scoring, whole, tokens, strict=True)
    ]


IMPLEMENTATIONS = {"rlif": run_rlif, "TRL": run_trl}


def summary(steps: list[dict[str, float]]) -> dict[str, Any]:
    """Medians over the steps after the first."""
    measured = steps[1:]
    return {
        "tokens_per_second": statistics.median(step["tokens"] / step["step"] for step in measured),
        "seconds": {name: statistics.median(step[name] for step in measured) for name in steps[0] if name != "tokens"},
        "tokens": statistics.median(step["tokens"] for step in measured),
        "steps": steps,
        "peak_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else resident_bytes("VmHWM"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in dataclasses.fields(Workload):
        option = f"--{field.name.replace('_', '-')}"
        parser.add_argument(option, type=type(field.default), default=field.default, help=f"default {field.default}")
    parser.add_argument("--implementation", choices=IMPLEMENTATIONS, required=True, help="whose step")
    arguments = vars(parser.parse_args())
    implementation = arguments.pop("implementation")
    with tempfile.TemporaryDirectory() as scratch:
        steps = IMPLEMENTATIONS[implementation](Workload(**arguments), Path(scratch))
        print(json.dumps(summary(steps)))


if __name__ == "__main__":
    main()
