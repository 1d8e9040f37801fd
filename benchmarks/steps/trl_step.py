"""Suite `trl-step`: a step of TRL's GRPOTrainer on self-certainty: stock, with our head and reward, and RLIFTrainer.

The same random model, prompts, loss and optimizer in all. Of each the rewards of the first step must be those of
Intuitor's formula for the completions that it drew, before any time of it counts. On a GPU the model has the shape of
Qwen2.5-0.5B, with random weights in float32, and its forwards are in bfloat16.
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

    def summary(turns: list[dict[str, Any]]) -> dict[str, Any]:
        gap = max(turn["reward_gap"] for turn in turns)
        if not gap <= REWARD_GAP[options.device]:
            raise RuntimeError(f"its rewards differ by {gap:.1e} from Intuitor's formula")
        return training_step.summarise_steps(turns) | {"reward_gap": gap}

    return steps_in_turn(training_step.measure_trainer, TRAINERS, work, summary, options.repeats, 70)
