"""Suite `real-family`: the commands of the family's methods with a real language model, on word problems.

    python -m benchmarks real-family --model DIR

Each step is one command as a user runs it, small enough for one core: `rlif retry`, confidence in words, and `rlif eval
--verify-generations`. What is finished is not made again, and what was stopped goes on: runs/real-family keeps it, by
the model and the settings.
"""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.runner import Options, Step
from benchmarks.steps.recipe import run_rlif
from rlif.answers.tags import read_tags
from rlif.files.fingerprint import fingerprint
from rlif.files.json_values import read_json, write_json
from rlif.files.jsonl import read_rows
from rlif.options.groups import Labels
from rlif.options.record import CONFIG_FILE
from rlif.retry.discriminator import fit_discriminator

RUNS = Path("runs") / "real-family"
# The wording and the temperature of examples/recipes/smollm2-word-problems.yaml.
COMMON: dict[str, Any] = {"chat": True, "temperature": 0.6, "max_completion_length": 48, "seed": 0}
SHOTS = 2
# That of docs/rewards.md, without solved problems before it.
FORM_PROMPT = (
    "Think, end the thought with </think>, then write <answer>, <analysis> of what may be wrong, and <confidence> from "
    "0 to 1, each with its closing tag."
)
# Problems and completions of each, attempts and lengths, by the step.
SIZES: dict[str, dict[str, Any]] = {
    "full": {"fitted": 64, "fit_generations": 4, "asked": 32, "max_rounds": 3, "formal": 6, "formal_length": 128,
             "verified": 6, "verifications": 2, "verification_length": 96},
    "tiny": {"fitted": 4, "fit_generations": 4, "asked": 2, "max_rounds": 2, "formal": 2, "formal_length": 4,
             "verified": 2, "verifications": 1, "verification_length": 4},
}  # fmt: skip
# From which probability on an attempt is accepted. From 0.5 on next to none is, since few attempts are right.
THRESHOLD = 0.4
LABELS: tuple[Labels, ...] = ("gold", "majority")
RETRIED = ("first", "accuracy", "any_right", "precision", "gain", "recall", "auroc", "attempts", "tokens", "ends",
           "rounds", "prompts")  # fmt: skip

Measure = Callable[["Place"], dict[str, Any]]


class Place:
    """Where a step finds what others made, and leaves what it makes."""

    def __init__(self, options: Options) -> None:
        assert options.model is not None  # as the command line sees to
        self.size = SIZES["full" if options.size == "full" else "tiny"]
        self.common = COMMON | {"device": options.device, "model": options.model}
        settings = [self.size, COMMON, SHOTS, str(options.model.resolve())]
        self.runs = RUNS / f"{options.model.name}-{fingerprint(settings)[:8]}"

    def problems(self, name: str, split: str, shots: int = SHOTS) -> str:
        """As `--data` names them; as many as the size says under `name`."""
        return f"word_problems:level=1,n={self.size[name]},split={split}" + f",shots={shots}" * bool(shots)

    def run(self, command: str, name: str, **asked: Any) -> Path:
        """Run a command in the directory `name`, going on where it was stopped, and return that."""
        directory = self.runs / name
        asked = self.common | asked | {"output_dir": directory}
        run_rlif(command, asked, resume=(directory / CONFIG_FILE).exists())
        return directory


def steps(options: Options) -> list[Step]:
    """The commands, those that need what an earlier one leaves after it."""
    listed = [
        ("samples", 240, sample), ("discriminators", 5, fit), ("retry", 240, retry),
        ("stated-confidence", 80, state_confidence), ("verify", 120, verify),
    ]  # fmt: skip
    return [Step(name, seconds, partial(add, options, name, measure)) for name, seconds, measure in listed]


def add(options: Options, name: str, measure: Measure, results: dict[str, Any]) -> str:
    """Run a step unless it is done; add what it found, with the processor seconds of its last go, to the entries."""
    place = Place(options)
    results["model"], results["settings"] = place.common["model"].name, place.size | COMMON
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


def sample(place: Place) -> dict[str, Any]:
    """Sample what discriminators are fitted on."""
    generations = place.size["fit_generations"]
    place.run("eval", "samples", data=place.problems("fitted", "train"), num_generations=generations)
    return {}


def fit(place: Place) -> dict[str, Any]:
    """Fit discriminators by either label, for what they accept on problems that they were not fitted on."""
    path = place.runs / "samples" / "completions.jsonl"
    fitted = {labels: fit_discriminator([path], labels=labels, answer_style="lenient").record for labels in LABELS}
    kept = ("held_out", "completions", "accepted_by_the_labels")
    return {"discriminators": {labels: {name: record[name] for name in kept} for labels, record in fitted.items()}}


def retry(place: Place) -> dict[str, Any]:
    """Try held-out problems until the discriminator accepts, each time without the rejected attempt."""
    directory = place.run(
        "retry",
        "retry",
        data=place.problems("asked", "test"),
        fit_on=place.runs / "samples" / "completions.jsonl",
        threshold=THRESHOLD,
        show_rejected=False,
        max_rounds=place.size["max_rounds"],
    )
    found = read_json(directory / "retry.json")
    return {"threshold": THRESHOLD, **{name: found[name] for name in RETRIED}}


def state_confidence(place: Place) -> dict[str, Any]:
    """Ask for confidence in words, and count what of the form is there."""
    directory = place.run(
        "eval",
        "stated-confidence",
        data=place.problems("formal", "test", shots=0),
        system_prompt=FORM_PROMPT,
        num_generations=2,
        max_completion_length=place.size["formal_length"],
    )
    rows = read_rows(directory / "completions.jsonl")
    texts = [text for row in rows for text in row["completions"]]
    tags = [read_tags(text) for text in texts]
    return {
        "completions": len(texts),
        "finished": sum(finished for row in rows for finished in row["finished"]),
        "answer_tag": sum(each.answer is not None for each in tags),
        "confidence_tag": sum(each.confidence is not None for each in tags),
        "well_formed": sum(each.well_formed for each in tags),
    }


def verify(place: Place) -> dict[str, Any]:
    """Ask the model about its own completions."""
    directory = place.run(
        "eval",
        "verify",
        data=place.problems("verified", "test"),
        num_generations=2,
        verify_generations=place.size["verifications"],
        max_completion_length=place.size["verification_length"],
    )
    found = read_json(directory / "eval.json")
    verifications = [
        each
        for row in read_rows(directory / "completions.jsonl")
        for of_one in row["verifications"]
        for each in of_one or ()
    ]
    return {
        "verifications": len(verifications),
        "finished": sum(each["finished"] for each in verifications),
        "rated": sum(each["rating"] is not None for each in verifications),
        "ratings": sorted({each["rating"] for each in verifications if each["rating"] is not None}),
        "balanced_accuracy": found["verifying"],
        "auroc": found["scores"].get("verification", {}).get("auroc"),
    }
