"""Run a suite: step by step, each result on the disk as soon as it is there, with the time left.

A suite is a function from `Options` to a list of `Step`s; each step adds its measurements to the results. Whatever a
step raises is kept as the reason why it is missing, and the next one runs.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib
import json
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.machine import describe_machine, slug
from benchmarks.memory import describe_error, in_fresh_process
from benchmarks.timing import rotated
from rlif.files.whole import write_text

SUITES = {
    "static": "benchmarks.gates.static",
    "ops": "benchmarks.ops.suite",
    "levels": "benchmarks.ops.cpu_levels",
    "loop": "benchmarks.steps.loop",
    "generation": "benchmarks.steps.generation",
    "trl-step": "benchmarks.steps.trl_step",
    "self-feedback": "benchmarks.steps.self_feedback",
    "demo": "benchmarks.steps.demo",
    "answers": "benchmarks.steps.answers",
    "word-prompts": "benchmarks.steps.word_prompts",
    "recipe": "benchmarks.steps.recipe",
    "evidence": "benchmarks.steps.evidence",
    "shared-prompts": "benchmarks.steps.shared_prompts",
    "real-step": "benchmarks.steps.real_step",
    "real-self-feedback": "benchmarks.steps.real_self_feedback",
    "real-family": "benchmarks.steps.real_family",
    "architectures": "benchmarks.steps.architectures",
    "kl-estimators": "benchmarks.steps.kl_estimators",
    "explain": "benchmarks.steps.explain",
    "verify": "benchmarks.steps.verify",
    "retry": "benchmarks.steps.retry",
    "introspect": "benchmarks.steps.introspect",
    "length-conditioned": "benchmarks.steps.length_conditioned",
    "rlcr": "benchmarks.steps.rlcr",
    "collapse": "benchmarks.steps.collapse",
    "guard": "benchmarks.steps.guard",
}


@dataclass(frozen=True)
class Options:
    """What to run, where, and how much of it."""

    output: Path
    """Directory of the results files."""
    device: Literal["cpu", "cuda"] = "cpu"
    size: Literal["full", "quick", "tiny"] = "full"
    """`tiny` shows that everything works; its figures mean nothing."""
    peers: frozenset[str] | None = None
    """Only these packages beside ours and torch; None: all that there are."""
    repeats: int = 3
    """Turns of each trainer, or seeds."""
    model: Path | None = None
    """Directory of the model that `word-prompts` asks, that `recipe`, `real-self-feedback`, `real-family` and
    `real-step` train, and that `shared-prompts` measures beside the random one."""
    completions: Path | None = None
    """File of `rlif eval` that `evidence` measures."""
    seconds: float | None = None
    """Steps that are expected to end after so many seconds are skipped, and named; None: none are."""

    def allows(self, package: str) -> bool:
        return self.peers is None or package in ("torch", "rlif") or package in self.peers


@dataclass(frozen=True)
class Step:
    """A piece of a suite."""

    label: str
    seconds: float
    """Expected; for the time left alone."""
    run: Callable[[dict[str, Any]], str]
    """Adds to the results that it is given, as they come, and returns a line about what it found."""


def steps_in_turn(
    measure: Callable[[str, Any], dict[str, Any]],
    names: Iterable[str],
    workload: Any,
    summary: Callable[[list[dict[str, Any]]], dict[str, Any]],
    repeats: int,
    seconds: float,
) -> list[Step]:
    """Return a step for each name, then for each again, beginning with another one each turn, all in fresh processes.

    Args:
        measure: called there with a name and the workload, a dataclass that the results keep.
        names: under which the summaries stand in the results' `implementations`.
        summary: makes an entry of what all turns so far have measured; what it raises is why the name is missing.
    """
    names = list(names)
    measured: dict[str, list[dict[str, Any]]] = {name: [] for name in names}

    def run(name: str, results: dict[str, Any]) -> str:
        results["workload"] = dataclasses.asdict(workload)
        entries = results.setdefault("implementations", {})
        if name in results["missing"]:
            return f"failed before: {results['missing'][name]}"
        try:
            measured[name].append(in_fresh_process(measure, name, workload))
            entries[name] = summary(measured[name])
        except Exception as error:  # the others go on
            entries.pop(name, None)
            results["missing"][name] = describe_error(error)
            return f"failed: {results['missing'][name]}"
        shown = ((key, value) for key, value in entries[name].items() if isinstance(value, int | float))
        return ", ".join(f"{key.replace('_', ' ')} {value:.4g}" for key, value in shown)

    return [
        Step(f"{name}, turn {turn + 1} of {repeats}", seconds, partial(run, name))
        for turn in range(repeats)
        for name in rotated(names, turn)
    ]


def run_suite(name: str, options: Options, steps: list[Step] | None = None) -> dict[str, Any]:
    """Run a suite of `SUITES` and return its results, which are also in `OUTPUT/MACHINE-DATE-NAME.json`.

    The file is rewritten after each step and says by `finished` whether it is whole; KeyboardInterrupt leaves in it
    what was measured until then.
    """
    steps = importlib.import_module(SUITES[name]).steps(options) if steps is None else steps
    date = str(datetime.date.today())
    path = results_path(name, options)
    path.parent.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {
        "suite": name,
        "date": date,
        "command": " ".join(["python -m benchmarks", *map(_without_place, sys.argv[1:])]),
        "machine": describe_machine(),
        "device": options.device,
        "size": options.size,
        "finished": False,
        "entries": [],
        "missing": {},
        "skipped": {},
    }

    def save() -> None:
        results["seconds"] = round(time.perf_counter() - started, 1)
        write_text(path, json.dumps(results, indent=1) + "\n", argument="output")

    started = time.perf_counter()
    console = Console(stderr=True)
    columns = (
        TextColumn("[bold]{task.description}"), BarColumn(), TimeElapsedColumn(),
        TextColumn("elapsed, left:"), TimeRemainingColumn(),
    )  # fmt: skip
    # The whole run tells how fast it goes: steps are too long for rich's 30 seconds.
    with Progress(*columns, console=console, transient=True, speed_estimate_period=3600) as progress:
        task = progress.add_task(name, total=sum(step.seconds for step in steps))
        try:
            for number, step in enumerate(steps, start=1):
                progress.update(task, description=f"{name} {number}/{len(steps)}: {step.label}")
                elapsed = time.perf_counter() - started
                if options.seconds is not None and elapsed + step.seconds > options.seconds:
                    results["skipped"][step.label] = f"expected to end after {options.seconds:.0f} seconds"
                    line = "skipped: no time left"
                else:
                    line = _run(step, results)
                progress.advance(task, step.seconds)
                progress.console.print(f"{name} {number}/{len(steps)} {step.label}: {line}", highlight=False)
                save()
            results["finished"] = True
        finally:
            save()
    console.print(f"wrote {path}", highlight=False, soft_wrap=True)
    return results


def results_path(name: str, options: Options) -> Path:
    """Where a suite's results of today are."""
    return options.output / f"{slug(options.device)}-{datetime.date.today()}-{name}.json"


def _without_place(argument: str) -> str:
    """Where somebody keeps a model is nobody else's concern."""
    return Path(argument).name if Path(argument).is_absolute() else argument


def _run(step: Step, results: dict[str, Any]) -> str:
    try:
        return step.run(results)
    except Exception as error:  # a step that fails, for want of memory say, costs no other
        results["missing"][step.label] = describe_error(error)
        return f"failed: {results['missing'][step.label]}"
