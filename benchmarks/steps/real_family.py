"""Suite `real-family`: the commands of the family's methods with a real language model, on word problems.

    python -m benchmarks real-family --model DIR

Each step is one command as a user runs it, small enough for one core. Here are those that ask the model: `rlif retry`,
confidence in words, and `rlif eval --verify-generations`; those that train it are in `benchmarks.steps.real_training`.
What is finished is not made again, and what was stopped goes on: runs/real-family keeps it, by the model and the
settings of each step.
"""

from __future__ import annotations

from typing import Any

from benchmarks.runner import Options, Step
from benchmarks.steps.kept_commands import Place, command_step, problems
from benchmarks.steps.real_training import training_steps
from rlif.answers.tags import read_tags
from rlif.files.json_values import read_json
from rlif.files.jsonl import read_rows
from rlif.options.groups import Labels
from rlif.retry.discriminator import fit_discriminator

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


def steps(options: Options) -> list[Step]:
    """The commands, those that need what an earlier one leaves after it."""
    listed = [
        ("samples", 240, sample), ("discriminators", 5, fit), ("retry", 240, retry),
        ("stated-confidence", 80, state_confidence), ("verify", 120, verify),
    ]  # fmt: skip
    size = SIZES["full" if options.size == "full" else "tiny"]
    asking = [command_step(options, name, seconds, measure, size) for name, seconds, measure in listed]
    return asking + training_steps(options)


def sample(place: Place) -> dict[str, Any]:
    """Sample what discriminators are fitted on."""
    generations = place.size["fit_generations"]
    place.run("eval", "samples", data=problems(place.size["fitted"], "train"), num_generations=generations)
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
        data=problems(place.size["asked"], "test"),
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
        data=problems(place.size["formal"], "test", shots=0),
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
        data=problems(place.size["verified"], "test"),
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
