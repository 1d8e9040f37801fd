"""Trainings on the built-in task from one start, with several rewards and seeds: what is finished is not made again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.runner import Options, Step
from rlif.tasks.arithmetic import ArithmeticConfig, write_jsonl
from rlif.training.loop import train
from rlif.training.options import TrainConfig

START = "start"


def start_and_runs(
    options: Options,
    names: Iterable[str],
    most_seeds: int,
    add_start: Callable[[Options, dict[str, Any]], str],
    add_run: Callable[[Options, str, int, dict[str, Any]], str],
    *,
    seconds: tuple[float, float],
) -> list[Step]:
    """The start, then each run, the first seed of all first; of a quick run the first two alone.

    Args:
        options: of the command line.
        names: of the runs.
        most_seeds: of each, at full size.
        add_start: measures the start and adds it to the results.
        add_run: trains by name and seed, measures, and adds that.
        seconds: that the start takes, and a run.
    """
    full = options.size == "full"
    chosen = list(names) if full else list(names)[:2]
    return [Step(START, seconds[0], partial(add_start, options))] + [
        Step(f"{name}, seed {seed}", seconds[1], partial(add_run, options, name, seed))
        for seed in range(min(most_seeds, options.repeats) if full else 1)
        for name in chosen
    ]


def run_directory(runs: Path, name: str, seed: int) -> Path:
    """Where a run is."""
    return runs / f"{name.replace(', ', '-').replace(' ', '-')}-seed-{seed}"


def trained(config: TrainConfig, task: ArithmeticConfig) -> Path:
    """Train, unless that is done, and return the model; the problems of its seed are written first.

    Args:
        config: resumes where it was begun; its `output_dir` is given.
        task: that the problems are of.
    """
    assert config.output_dir is not None
    model = config.output_dir / "model"
    if not Path(config.data).exists():
        count = config.max_steps * config.prompts_per_step
        write_jsonl(Path(config.data), task, "train", count, config.seed)
    if not model.exists():
        train(config)
    return model


def held_out_problems(runs: Path, task: ArithmeticConfig, count: int) -> Path:
    """Write the held-out problems, which are the same for all runs, unless they are there."""
    data = runs / "eval.jsonl"
    if not data.exists():
        write_jsonl(data, task, "eval", count, 0)
    return data
