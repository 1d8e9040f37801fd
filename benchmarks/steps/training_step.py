"""A training step on self-certainty (sample, score, update): ours, TRL's, and TRL's with our parts in it.

All train the same model on the same prompts with the same group, lengths and loss. TRL's rewards are functions
of the completions, so that a stock trainer's needs a forward of its own: Intuitor's formula, as people write it for
TRL. Ours comes from the forward that carries the gradient, so that scoring and update are one phase.

TRL and datasets are imported where they are called: without TRL ours is measured alone, and its memory has neither.
"""

from __future__ import annotations

import json
import math
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.memory import peak_bytes
from benchmarks.steps.workload import StepTimer, Workload, make_prompts, save_model, time_in, timed
from benchmarks.timing import quartiles
from rlif.training import loop
from rlif.training.options import TrainConfig

RLIF, STOCK, PARTS, INSIDE = "rlif", "TRL", "TRL with use_fused_token_stats and trl_reward", "RLIFTrainer"
# Ours, where a prompt is computed for each of its completions.
SEPARATE = "rlif --no-share-prompts"


def measure_trainer(
    trainer: str, work: Workload, model: Path | None = None, prompts: list[str] | None = None
) -> dict[str, Any]:
    """Train in this process, which should be a fresh one.

    Args:
        model: a directory; None: that of the random model is written anew.
        prompts: those of all steps, each with the same number of tokens; None: random words of that model.

    Returns:
        seconds of every step and its phases and how many tokens it sampled, the process's peak memory, and of TRL's
        trainers how far the rewards of the first step are from Intuitor's formula for the same completions.
    """
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        if model is None:
            save_model(work, model := directory / "model")
        prompts = make_prompts(work) if prompts is None else prompts
        if trainer in (RLIF, SEPARATE):
            train = train_rlif(work, model, prompts, directory, share_prompts=trainer == RLIF)
        else:
            train = train_inside_trl(trainer, work, model, prompts, directory)
        return train | {"peak_bytes": peak_bytes()}


def train_rlif(
    work: Workload, model: Path, prompts: list[str], directory: Path, *, share_prompts: bool
) -> dict[str, Any]:
    """What `rlif train` does, without the guard, which peers do not have and which is no part of a step."""
    data = directory / "prompts.jsonl"
    data.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    sampling: list[float] = []
    time_in(loop, "sample", sampling)
    config = TrainConfig(
        model=str(model),
        data=str(data),
        reward=("self_certainty",),
        output_dir=directory / "run",
        max_steps=work.steps,
        prompts_per_step=work.prompts,
        num_generations=work.num_generations,
        max_completion_length=work.max_completion_length,
        learning_rate=work.learning_rate,
        beta=work.beta,
        share_prompts=share_prompts,
        guard="off",
        max_tokens_per_forward=(
            work.tokens_per_forward(share_prompts=share_prompts) if work.rows else TrainConfig.max_tokens_per_forward
        ),
        device=work.device,
        dtype="bfloat16" if work.dtype == "bfloat16" else "float32",
    )
    loop.train(config)
    rows = [json.loads(line) for line in (directory / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [
        {
            "sampling": seconds,
            "scoring and update": row["step_seconds"] - seconds,
            "step": row["step_seconds"],
            "tokens": row["completion_length"] * work.prompts * work.num_generations,
        }
        for row, seconds in zip(rows, sampling, strict=True)
    ]
    return {"steps": steps}


@torch.no_grad()
def intuitor_rewards(
    model: torch.nn.Module, prompt_ids: Tensor, completion_ids: list[list[int]], rows: int = 8
) -> list[float]:
    """Mean over each completion's tokens of KL(Uniform ‖ p), from a forward of that many completions at a time."""
    rewards: list[float] = []
    length = max(map(len, completion_ids))
    padded = torch.tensor([ids + [0] * (length - len(ids)) for ids in completion_ids], device=prompt_ids.device)
    lengths = torch.tensor([len(ids) for ids in completion_ids], device=prompt_ids.device)
    counted = torch.arange(length, device=prompt_ids.device) < lengths[:, None]
    parts = zip(prompt_ids.split(rows), padded.split(rows), counted.split(rows), strict=True)
    for prompt, completion, mask in parts:
        ids = torch.cat([prompt, completion], dim=1)
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=length + 1).logits[:, :-1].float()
        certainty = logits.logsumexp(-1) - logits.mean(-1) - math.log(logits.shape[-1])
        rewards += ((certainty * mask).sum(-1) / mask.sum(-1)).tolist()
    return rewards


def train_inside_trl(name: str, work: Workload, model: Path, texts: list[str], directory: Path) -> dict[str, Any]:
    """TRL's GRPOTrainer, gradient checkpointing off: `STOCK`, `PARTS` or `INSIDE`."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    network = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, work.dtype))
    tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")

    def intuitor(prompts: list[str], completion_ids: list[list[int]], **kwargs: object) -> list[float]:
        prompt_ids = tokenizer(prompts, return_tensors="pt")["input_ids"].to(network.device)
        with torch.autocast(network.device.type, torch.bfloat16, enabled=work.autocast):
            return intuitor_rewards(network, prompt_ids, completion_ids)

    trainer_class: Any = GRPOTrainer
    reward: Any = intuitor
    if name != STOCK:
        from rlif.integrations.trl import RLIFTrainer, trl_reward, use_fused_token_stats

        reward = trl_reward("self_certainty") if name == PARTS else "self_certainty"
        trainer_class = GRPOTrainer if name == PARTS else RLIFTrainer
    whole = StepTimer()
    completions = work.prompts * work.num_generations
    rows = work.rows or completions
    trainer = trainer_class(
        model=network,
        reward_funcs=reward,
        args=GRPOConfig(
            output_dir=str(directory / "run"),
            max_steps=work.steps,
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=completions // rows,
            num_generations=work.num_generations,
            max_completion_length=work.max_completion_length,
            learning_rate=work.learning_rate,
            beta=work.beta,
            loss_type="dapo",
            temperature=1.0,
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
            bf16=work.autocast,
            use_cpu=work.device == "cpu",
        ),
        train_dataset=Dataset.from_dict({"prompt": texts}),
        processing_class=tokenizer,
        callbacks=[whole],
    )
    if name == PARTS:
        use_fused_token_stats(trainer)
    sampling: list[float] = []
    scoring: list[float] = []
    tokens: list[int] = []
    gaps: list[float] = []
    calculate_rewards = timed(trainer._calculate_rewards, scoring)

    def calculate(inputs: Any, prompts: Any, completions: Any, completion_ids: list[list[int]]) -> Any:
        tokens.append(sum(map(len, completion_ids)))
        found = calculate_rewards(inputs, prompts, completions, completion_ids)
        if not gaps:  # in the first step, which warms up and counts for nothing else
            expected = intuitor(prompts, completion_ids)
            gaps.append(max(abs(one - other) for one, other in zip(found[:, 0].tolist(), expected, strict=True)))
        return found

    trainer._calculate_rewards = calculate
    time_in(trainer, "_generate", sampling)
    trainer.train()
    steps = [
        {"sampling": sample, "scoring": score, "update": step - sample - score, "step": step, "tokens": count}
        for sample, score, step, count in zip(sampling, scoring, whole.seconds, tokens, strict=True)
    ]
    return {"steps": steps, "reward_gap": gaps[0]}


def summarise_steps(turns: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians and quartiles over the steps of all turns but each one's first, which warms up."""
    steps = [step for turn in turns for step in turn["steps"][1:]]
    low, _, high = quartiles([step["step"] for step in steps])
    return {
        "tokens_per_second": statistics.median(step["tokens"] / step["step"] for step in steps),
        "seconds": {name: statistics.median(step[name] for step in steps) for name in steps[0] if name != "tokens"},
        "step_quartiles": [low, high],
        "tokens": statistics.median(step["tokens"] for step in steps),
        "peak_bytes": statistics.median(turn["peak_bytes"] for turn in turns),
        "steps": [turn["steps"] for turn in turns],
    }
