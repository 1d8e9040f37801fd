"""A training step of TRL's GRPOTrainer on self-certainty: stock, with our head and reward, and RLIFTrainer.

    python -m benchmarks.steps.trl_step [--quick] [--repeats 3] [--output benchmarks/results]

The same random model, prompts, completions, loss and optimizer in all. The stock trainer's reward is Intuitor's formula
on a forward of the reward function's own, as people write it for TRL. Each trainer runs in a fresh process, in turns,
and the rewards of the first step must agree to 1e-4 before any time counts. The first step warms up; figures are
medians over the others of all turns, with quartiles. Peak memory is that of the process, libraries included; on a GPU
that of torch's allocator, and there the model has the shape of Qwen2.5-0.5B, V = 151936, with random weights, in bf16.
Writes CORES-core-cpu-DATE-trl-step.json, or GPU-DATE-trl-step.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.machine import describe
from benchmarks.memory import resident_bytes
from benchmarks.steps.training_step import Workload, grpo_options, make_model, make_prompts, timed, word_tokenizer

QUICK = Workload(vocab_size=8000, hidden_size=128, num_layers=2, prompts=2, max_completion_length=32, steps=3)
GPU = Workload(vocab_size=151936, hidden_size=896, num_layers=24, max_completion_length=256, steps=4)
GPU_QUICK = dataclasses.replace(GPU, prompts=2, max_completion_length=64, steps=3)
# Rewards of the same completions: a float32 sum over the vocabulary, or bf16 logits, computed in two ways.
REWARD_GAP = {"cpu": 1e-4, "cuda": 1e-2}
PARTS = "TRL with use_fused_token_stats and trl_reward"
IMPLEMENTATIONS = ("TRL", PARTS, "RLIFTrainer")


def workload(quick: bool) -> Workload:
    """What fits the machine."""
    if torch.cuda.is_available():
        return GPU_QUICK if quick else GPU
    return QUICK if quick else Workload()


def make_half_billion(directory: Path) -> None:
    """A random model of the shape of Qwen2.5-0.5B, whose tokenizer knows the words w3, w4, …"""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=GPU.vocab_size,
        hidden_size=GPU.hidden_size,
        intermediate_size=4864,
        num_hidden_layers=GPU.num_layers,
        num_attention_heads=14,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    Qwen2ForCausalLM(config).save_pretrained(directory)
    word_tokenizer(GPU.vocab_size).save_pretrained(directory)


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


def train(implementation: str, work: Workload, directory: Path) -> dict[str, Any]:
    """Train for `work.steps` steps: seconds of every step and its phases, rewards of the first, peak memory."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    on_gpu = torch.cuda.is_available()
    if on_gpu:
        make_half_billion(directory / "model")
    else:
        make_model(work, directory / "model")
    model = AutoModelForCausalLM.from_pretrained(directory / "model", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(directory / "model", padding_side="left")

    def intuitor(prompts: list[str], completion_ids: list[list[int]], **kwargs: object) -> list[float]:
        prompt_ids = tokenizer(prompts, return_tensors="pt")["input_ids"].to(model.device)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=on_gpu):
            return intuitor_rewards(model, prompt_ids, completion_ids)

    trainer_class: Any = GRPOTrainer
    reward: Any = intuitor
    if implementation != "TRL":
        from rlif.integrations.trl import RLIFTrainer, trl_reward, use_fused_token_stats

        reward = trl_reward("self_certainty")
        if implementation == "RLIFTrainer":
            trainer_class, reward = RLIFTrainer, "self_certainty"

    sampling: list[float] = []
    scoring: list[float] = []
    whole: list[float] = []
    first_rewards: list[float] = []

    class Watch(TrainerCallback):
        """Times every step, the optimizer's included."""

        def on_step_begin(self, *args: object, **kwargs: object) -> None:
            self.started = _now()

        def on_step_end(self, *args: object, **kwargs: object) -> None:
            whole.append(_now() - self.started)
            if not first_rewards:
                (rewards,) = trainer._logs["rewards"].values()
                first_rewards.extend(rewards)

    trainer = trainer_class(
        model=model,
        reward_funcs=reward,
        args=GRPOConfig(**grpo_options(work, directory), bf16=on_gpu, use_cpu=not on_gpu),
        train_dataset=Dataset.from_dict({"prompt": make_prompts(work)}),
        processing_class=tokenizer,
        callbacks=[Watch()],
    )
    if implementation == PARTS:
        use_fused_token_stats(trainer)
    trainer._generate = timed(trainer._generate, sampling)
    trainer._calculate_rewards = timed(trainer._calculate_rewards, scoring)
    trainer.train()
    tokens = work.prompts * work.num_generations * work.max_completion_length
    return {
        "steps": [
            {"sampling": sample, "scoring": score, "update": step - sample - score, "step": step, "tokens": tokens}
            for sample, score, step in zip(sampling, scoring, whole, strict=True)
        ],
        "first_rewards": first_rewards,
        "peak_bytes": torch.cuda.max_memory_allocated() if on_gpu else resident_bytes("VmHWM"),
    }


def run(quick: bool = False, repeats: int = 3) -> dict[str, Any]:
    """Measure all trainers in turns, each in a fresh process.

    Returns:
        What the results file holds: date, machine, workload, and under `implementations` the seconds of a step and of
        its phases (medians and quartiles), the peak of memory in bytes, and how far the rewards of the first step are
        from those of the first trainer that ran, the stock one unless it failed; under `missing` what failed, and why.

    Raises:
        RuntimeError: the trainers' rewards differ.
    """
    work = workload(quick)
    results: dict[str, Any] = {
        "date": str(datetime.date.today()),
        "machine": describe(),
        "workload": dataclasses.asdict(work),
        "repeats": repeats,
        "implementations": {},
        "missing": {},
    }
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in IMPLEMENTATIONS}
    for turn in range(repeats):
        for name in IMPLEMENTATIONS:
            if name in results["missing"]:
                continue
            command = [sys.executable, "-m", "benchmarks.steps.trl_step", "--implementation", name]
            process = subprocess.run([*command, *(["--quick"] if quick else [])], capture_output=True, text=True)
            if process.returncode:
                said = process.stderr.strip().splitlines()  # nothing, if it was killed for its memory
                results["missing"][name] = said[-1] if said else f"exit status {process.returncode}"
                print(name, results["missing"][name], flush=True)
                continue
            measured = json.loads(process.stdout.splitlines()[-1])
            runs[name].append(measured)
            steps = [f"{each['step']:.2f}" for each in measured["steps"]]
            print(f"turn {turn + 1} of {repeats}, {name}: steps of {', '.join(steps)} s", flush=True)
    measured_all = {name: measurements for name, measurements in runs.items() if name not in results["missing"]}
    expected: list[float] = next((measurements[0]["first_rewards"] for measurements in measured_all.values()), [])
    for name, measurements in measured_all.items():
        entry = _summary(measurements)
        entry["reward_gap"] = _gap(expected, measurements)
        limit = REWARD_GAP["cuda" if torch.cuda.is_available() else "cpu"]
        if not entry["reward_gap"] <= limit:
            raise RuntimeError(f"{name}: rewards differ from {next(iter(measured_all))}'s by {entry['reward_gap']:.1e}")
        results["implementations"][name] = entry
    return results


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _gap(expected: list[float], measurements: list[dict[str, Any]]) -> float:
    return max(abs(a - b) for each in measurements for a, b in zip(expected, each["first_rewards"], strict=True))


def _summary(measurements: list[dict[str, Any]]) -> dict[str, Any]:
    steps = [step for each in measurements for step in each["steps"][1:]]
    quartiles = statistics.quantiles([step["step"] for step in steps], n=4) if len(steps) > 1 else None
    return {
        "seconds": {name: statistics.median(step[name] for step in steps) for name in steps[0] if name != "tokens"},
        "step_quartiles": quartiles and [quartiles[0], quartiles[2]],
        "tokens_per_second": statistics.median(step["tokens"] / step["step"] for step in steps),
        "peak_bytes": statistics.median(each["peak_bytes"] for each in measurements),
        "steps": [each["steps"] for each in measurements],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small shape, to see that it works")
    parser.add_argument("--repeats", type=int, default=3, help="turns, each of one fresh process for each trainer")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="directory to write to")
    parser.add_argument("--implementation", choices=IMPLEMENTATIONS, help="run this one here, and print it")
    arguments = parser.parse_args()
    if arguments.implementation:
        with tempfile.TemporaryDirectory() as scratch:
            print(json.dumps(train(arguments.implementation, workload(arguments.quick), Path(scratch))))
        return
    results = run(arguments.quick, arguments.repeats)
    machine = results["machine"]
    name = machine["gpu"].replace(" ", "-") if machine["gpu"] else f"{machine['cores']}-core-cpu"
    path = arguments.output / f"{name}-{results['date']}-trl-step.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
