"""A tiny model with a tokenizer and a chat template, saved as transformers saves them, and trainers of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from trl import GRPOConfig

import tiny_models

LETTERS = tiny_models.CHARACTERS + "abcdefghijklmnopqrstuvwxyz"
# The shared tiny model, that knows letters too: conversations have them.
SIZES = tiny_models.SIZES | {"vocab_size": 3 + len(LETTERS), "tie_word_embeddings": True}
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'][0] + '=' + message['content'] + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'a=' }}{% endif %}"
)
PROMPTS = [f"{a}+{b}=" for a in (1, 20, 3) for b in (4, 50)]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character, and a chat template."""
    return tiny_models.make_tokenizer(LETTERS, CHAT_TEMPLATE)


def save_model(directory: Path) -> Path:
    torch.manual_seed(0)
    Qwen3ForCausalLM(Qwen3Config(**SIZES)).save_pretrained(directory)
    make_tokenizer().save_pretrained(directory)
    return directory


def dataset(conversational: bool = False) -> Dataset:
    prompts = [[{"role": "user", "content": text}] if conversational else text for text in PROMPTS]
    return Dataset.from_dict({"prompt": prompts, "answer": [str(eval(text[:-1])) for text in PROMPTS]})


# Two steps of two prompts with four completions of at most eight tokens each.
SETTINGS: dict[str, Any] = dict(
    max_steps=2,
    per_device_train_batch_size=8,
    num_generations=4,
    max_completion_length=8,
    # Adam would take steps of one size where a gradient is nothing but rounding.
    optim="sgd",
    learning_rate=0.1,
    activation_checkpointing=False,
    bf16=False,
    use_cpu=True,
    report_to="none",
    save_strategy="no",
    logging_steps=1,
    disable_tqdm=True,
)


def config(directory: Path, **changes: Any) -> GRPOConfig:
    return GRPOConfig(**(SETTINGS | {"output_dir": str(directory)} | changes))


def trained(trainer: Any) -> dict[str, torch.Tensor]:
    """What the trainer makes of its model."""
    trainer.train()
    return {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}


def rows(trainer: Any) -> list[dict[str, float]]:
    """What the trainer logged of each step."""
    return [row for row in trainer.state.log_history if "reward" in row]


def furthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest difference between two models' weights."""
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


class SelfCertainty:
    """What people write for TRL: a forward of the reward's own, and the formula of Intuitor, log V included."""

    __name__ = "self_certainty"
    trainer: Any = None

    def __call__(self, prompts: list[Any], completion_ids: list[list[int]], **kwargs: object) -> list[float]:
        trainer, rewards = self.trainer, []
        for prompt, completion in zip(trainer._tokenize_prompts(prompts)[0], completion_ids, strict=True):
            with torch.no_grad():
                logits = trainer.model(input_ids=torch.tensor([prompt + completion])).logits[0]
            logits = logits[len(prompt) - 1 : -1].float() / trainer.temperature
            kl = logits.logsumexp(-1) - logits.mean(-1) - math.log(logits.shape[-1])
            rewards.append(kl.mean().item())
        return rewards
