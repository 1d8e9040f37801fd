"""Part `step`: a training step of a model of Qwen2.5-0.5B's shape, ours and TRL's, each in a process of its own."""

from __future__ import annotations

import dataclasses
import importlib.util
import tempfile
from pathlib import Path

from benchmarks.gpu.part import Task
from benchmarks.memory import describe_error, in_fresh_process
from benchmarks.steps.training_step import RLIF, STOCK, measure_trainer, summarise_steps
from benchmarks.steps.workload import Workload, save_model, workload

PACKAGES = {RLIF: "rlif", STOCK: "trl"}
# The first step warms up. Sampling by transformers takes most of a step: completions are as short as leave an update
# that counts.
STEPS, COMPLETION_LENGTH = 3, 64


def measure(task: Task) -> None:
    """Fill in tokens a second, phases and peak memory of each trainer."""
    work = chosen_workload(task)
    task.found |= {"workload": dataclasses.asdict(work), "implementations": {}, "missing": {}}
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch)
        in_fresh_process(save_model, work, model)
        for name, package in PACKAGES.items():
            if package != "rlif" and not task.peers:
                continue
            if importlib.util.find_spec(package) is None:
                task.found["missing"][name] = f"{package} is not installed"
                continue
            try:
                turn = in_fresh_process(measure_trainer, name, work, model)
                task.found["implementations"][name] = summarise_steps([turn])
            except Exception as error:  # whatever a trainer raises, the other goes on
                task.found["missing"][name] = describe_error(error)
            task.save()


def chosen_workload(task: Task) -> Workload:
    work = workload(task.device, "tiny" if task.tiny else task.size)
    return work if task.tiny else dataclasses.replace(work, steps=STEPS, max_completion_length=COMPLETION_LENGTH)
