"""Trainings on the built-in task from one start, with several rewards and seeds: what is finished is not made again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.runner import Options, Step
from rlif.evaluation.completions import read_completions
from rlif.evaluation.measure import Evaluation, evaluate_completions
from rlif.evaluation.options import EvalConfig
from rlif.evaluation.sampling import prepare_sampling
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


def evaluated(model: Path, run: Path, task: ArithmeticConfig, num_prompts: int, **how: Any) -> Evaluation:
    """Let a model solve held-out problems, the same for all runs, into a file beside its run; sampling goes on there.

    Args:
        model: directory of the model.
        run: beside which the problems and the completions lie.
        task: that the problems are of.
        num_prompts: problems.
        how: other options of `rlif eval`.
    """
    data = held_out(run)
    if not data.exists():
        write_jsonl(data, task, "eval", num_prompts, 0)
    completions = completions_of(run)
    prepare_sampling(EvalConfig(model=str(model), data=str(data), **how)).run(completions)
    return evaluate_completions(read_completions(completions))


def verified(model: Path, run: Path, other: Path, **how: Any) -> Evaluation:
    """Let a model verify what another one has solved, into a file beside its run.

    Args:
        model: directory of the model.
        run: beside which the verifications lie.
        other: the run, as of `evaluated`, whose solutions are verified.
        how: other options of `rlif eval`, `verify_generations` among them.
    """
    given, path = completions_of(other), run.with_name(f"{run.name}-verifies-{other.name}.jsonl")
    prepare_sampling(EvalConfig(model=str(model), data=str(held_out(run)), completions=given, **how)).run(path)
    return evaluate_completions(read_completions(path))


def held_out(run: Path) -> Path:
    """Where the held-out problems lie that all runs have in common."""
    return run.with_name("eval.jsonl")


def completions_of(run: Path) -> Path:
    """Where the solutions of `evaluated` lie."""
    return run.with_name(f"{run.name}-completions.jsonl")
