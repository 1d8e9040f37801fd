"""Suite `trl-step`: a step of TRL's GRPOTrainer on self-certainty: stock, with our head and reward, and RLIFTrainer.

The same random model, prompts, completions, loss and optimizer in all. The rewards of the first step must agree with
those of the first trainer that ran, the stock one unless it failed, before any time of another counts. On a GPU the
model has the shape of Qwen2.5-0.5B, with random weights in float32, and its forwards are in bfloat16.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from benchmarks.runner import Options, Step, steps_in_turn
from benchmarks.steps import training_step
from benchmarks.steps.training_step import INSIDE, PARTS, STOCK
from benchmarks.steps.workload import workload

TRAINERS = (STOCK, PARTS, INSIDE)
# Rewards of the same completions: a float32 sum over the vocabulary, or bf16 logits, computed in two ways.
REWARD_GAP = {"cpu": 1e-4, "cuda": 1e-2}


def steps(options: Options) -> list[Step]:
    work = workload(options.device, options.size)
    work = dataclasses.replace(work, dtype="float32", autocast=options.device == "cuda")
    expected: list[float] = []

    def summary(turns: list[dict[str, Any]]) -> dict[str, Any]:
        if not expected:
            expected.extend(turns[0]["first_rewards"])
        pairs = (pair for turn in turns for pair in zip(expected, turn["first_rewards"], strict=True))
        gap = max(abs(first - other) for first, other in pairs)
        if not gap <= REWARD_GAP[options.device]:
            raise RuntimeError(f"its rewards differ by {gap:.1e} from those of the first trainer that ran")
        return training_step.summarise_steps(turns) | {"reward_gap": gap}

    return steps_in_turn(training_step.measure_trainer, TRAINERS, work, summary, options.repeats, 70)
