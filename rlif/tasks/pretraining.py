"""Pretrain the built-in base model on the imperfect teacher's solutions, and tune it on a better teacher's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import TextColumn
from torch import Tensor
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from rlif.models.language_model import load_language_model
from rlif.models.optimization import set_learning_rate, warmed_cosine
from rlif.progress_bar import bar
from rlif.tasks.arithmetic import teacher_solutions
from rlif.tasks.options import MAX_POSITIONS, BaseModelConfig, InstructModelConfig
from rlif.tasks.tokenizer import build_tokenizer

_WARMUP_STEPS = 50
_WEIGHT_DECAY = 0.01
_MAX_GRAD_NORM = 1.0
# The label that Hugging Face models and torch take for "none here".
IGNORED = -100


def pretrain(config: BaseModelConfig, console: Console | None) -> tuple[Qwen3ForCausalLM, PreTrainedTokenizerFast]:
    """Train a model from scratch on fresh solutions of the teacher.

    `console` shows a progress bar; None shows nothing. The caller's random state is left alone.
    """
    tokenizer = build_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = _build_model(config, tokenizer)
    learn_solutions(
        model,
        tokenizer,
        islice(teacher_solutions(config.task, config.seed), config.pretraining_steps * config.pretraining_batch_size),
        batch_size=config.pretraining_batch_size,
        steps=config.pretraining_steps,
        learning_rate=config.pretraining_learning_rate,
        label_smoothing=config.label_smoothing,
        title="Pretraining the base model",
        console=console,
    )
    return model, tokenizer


def tune(
    config: InstructModelConfig, base_dir: Path, console: Console | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Tune the base model, which is in `base_dir`, on solutions of the better teacher."""
    start = load_language_model(str(base_dir), device="cpu", dtype="float32")
    learn_solutions(
        start.model,
        start.tokenizer,
        islice(teacher_solutions(config.task, config.seed), config.steps * config.batch_size),
        batch_size=config.batch_size,
        steps=config.steps,
        learning_rate=config.learning_rate,
        label_smoothing=config.base.label_smoothing,
        title="Tuning the instruct-like model",
        console=console,
    )
    return start.model, start.tokenizer


def learn_solutions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Iterable[tuple[str, str]],
    *,
    batch_size: int,
    steps: int,
    learning_rate: float,
    label_smoothing: float,
    title: str,
    console: Console | None,
) -> None:
    """Train a model, in place, on (prompt, solution) pairs: the loss is on the solution's tokens and EOS only.

    AdamW, with a linear warm-up to the peak learning rate and a cosine decay.
    """
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=_WEIGHT_DECAY)
    model.train()
    columns = (TextColumn("loss {task.fields[loss]:.3f} nats/token"),)
    with bar(title, "", steps, columns=columns, console=console, disable=console is None, loss=math.nan) as move:
        batches = solution_batches(pairs, tokenizer, batch_size)
        for step, (input_ids, attention_mask, labels) in enumerate(batches, start=1):
            logits = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits
            loss = F.cross_entropy(
                logits[:, :-1].flatten(0, 1),
                labels[:, 1:].flatten(),
                ignore_index=IGNORED,
                label_smoothing=label_smoothing,
            )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), _MAX_GRAD_NORM)
            set_learning_rate(
                optimizer, warmed_cosine(step, steps, learning_rate=learning_rate, warmup_steps=_WARMUP_STEPS)
            )
            optimizer.step()
            move(1, loss=loss.item())
    model.eval()


def _build_model(config: BaseModelConfig, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    heads = config.hidden_size // 32
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=3 * config.hidden_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=heads,
            num_key_value_heads=heads // 2,
            head_dim=32,
            max_position_embeddings=MAX_POSITIONS,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
    )


def solution_batches(
    pairs: Iterable[tuple[str, str]], tokenizer: PreTrainedTokenizerBase, batch_size: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches of (input_ids, attention_mask, labels), each (batch, length) int64.

    The labels are the solution's tokens and EOS; the prompt and the padding, on the right, are ignored.
    """
    stream = iter(pairs)
    while chunk := list(islice(stream, batch_size)):
        prompts = tokenizer([prompt for prompt, _ in chunk])["input_ids"]
        texts = [prompt + solution + tokenizer.eos_token for prompt, solution in chunk]
        batch = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORED)
        for row, prompt in zip(labels, prompts, strict=True):
            row[: len(prompt)] = IGNORED
        yield batch["input_ids"], batch["attention_mask"], labels
