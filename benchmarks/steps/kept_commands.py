"""Steps of a suite that are commands of `rlif`, each run as a user does: what is finished is not made again."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.runner import Options, Step
from benchmarks.steps.recipe import run_rlif
from rlif.files.fingerprint import fingerprint
from rlif.files.json_values import write_json
from rlif.options.record import CONFIG_FILE

RUNS = Path("runs") / "real-family"
# The wording and the temperature of examples/recipes/smollm2-word-problems.yaml.
COMMON: dict[str, Any] = {"chat": True, "temperature": 0.6, "max_completion_length": 48, "seed": 0}
SHOTS = 2


class Place:
    """Where a step finds what others made, and leaves what it makes: a directory by the model, COMMON and the sizes."""

    def __init__(self, options: Options, size: Mapping[str, Any]) -> None:
        assert options.model is not None  # as the command line sees to
        self.options, self.size = options, size
        self.common = COMMON | {"device": options.device, "model": options.model}
        settings = [size, COMMON, SHOTS, str(options.model.resolve())]
        self.runs = RUNS / f"{options.model.name}-{fingerprint(settings)[:8]}"

    def only(self, *names: str) -> Place:
        """Return the place of a step that has these sizes alone."""
        return Place(self.options, {name: self.size[name] for name in names})

    def run(self, command: str, name: str, *words: str, **asked: Any) -> Path:
        """Run a command in the directory `name`, going on where it was stopped, and return that.

        Args:
            command: of `rlif`.
            name: of the directory.
            words: arguments without a name.
            asked: options beside COMMON; None leaves one of these out.
        """
        directory = self.runs / name
        options = {**self.common, **asked, "output_dir": directory}
        options = {option: value for option, value in options.items() if value is not None}
        # The stages of self-feedback go on by themselves.
        resume = command != "self-feedback" and (directory / CONFIG_FILE).exists()
        run_rlif(command, options, *words, resume=resume)
        return directory


Measure = Callable[[Place], dict[str, Any]]


def problems(count: int, split: str, shots: int = SHOTS) -> str:
    """So many word problems, as `--data` names them."""
    return f"word_problems:level=1,n={count},split={split}" + f",shots={shots}" * bool(shots)


def command_step(options: Options, name: str, seconds: float, measure: Measure, size: Mapping[str, Any]) -> Step:
    """Return a step that adds what a command found to the entries."""
    return Step(name, seconds, partial(add, Place(options, size), name, measure))


def add(place: Place, name: str, measure: Measure, results: dict[str, Any]) -> str:
    """Run a step unless it is done; add what it found, with the processor seconds of its last go, to the entries."""
    results["model"] = place.common["model"].name
    results["settings"] = results.get("settings", {}) | place.size | COMMON
    found = place.runs / f"{name}.json"
    if not found.exists():
        before = processor_seconds()
        entry = measure(place)
        write_json(found, {"name": name, **entry, "processor_seconds": processor_seconds() - before})
    results["entries"].append(json.loads(found.read_text(encoding="utf-8")))
    return f"{results['entries'][-1]['processor_seconds']:.0f} s of processor time"


def processor_seconds() -> float:
    """Those of all commands so far, whatever ran beside them."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
