"""Suite `loop`: tokens a second of the whole training step, ours beside TRL's GRPOTrainer, each in fresh processes."""

from __future__ import annotations

from benchmarks.runner import Options, Step, steps_in_turn
from benchmarks.steps.training_step import RLIF, STOCK, measure_trainer, summarise_steps
from benchmarks.steps.workload import workload

TRAINER_PACKAGES = {RLIF: "rlif", STOCK: "trl"}


def steps(options: Options) -> list[Step]:
    names = [name for name, package in TRAINER_PACKAGES.items() if options.allows(package)]
    seconds = 30 if options.device == "cuda" else 60
    return steps_in_turn(
        measure_trainer, names, workload(options.device, options.size), summarise_steps, options.repeats, seconds
    )
