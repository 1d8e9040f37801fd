"""The steps of the suite `real-family` that train: each a command as a user runs it, with sizes for one core.

`rlif explain` explains the run on few prompts, whose reward is known.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.report.real_training import SHOWN
from benchmarks.runner import Options, Step
from benchmarks.steps.kept_commands import Place, command_step, problems
from rlif.files.json_values import read_json
from rlif.files.jsonl import read_rows
from rlif.introspection.collect import read_turns, summary
from rlif.training.run_dir import LOGS

RECIPES = Path(__file__).parents[2] / "examples" / "recipes"
# Of each command what there is to train on, to measure on, and to sample.
SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "full": {
        "few-prompts": {"prompts": 4, "max_steps": 4, "prompts_per_step": 2, "num_generations": 8, "eval_steps": 4,
                        "held_out": 6},
        "explain": {"prompts": 6, "num_generations": 4},
        "introspect": {"prompts": 4, "num_candidates": 4, "turns": 3, "held_out": 4},
        "length": {"prompts": 4, "num_generations": 4, "held_out": 4, "eval_generations": 4},
        "train-verify": {"prompts": 4, "max_steps": 2, "prompts_per_step": 2, "num_generations": 8,
                         "verify_share": 1.0},
    },
    "tiny": {
        "few-prompts": {"prompts": 2, "max_steps": 2, "prompts_per_step": 1, "num_generations": 2, "eval_steps": 2,
                        "held_out": 2},
        "explain": {"prompts": 2, "num_generations": 2},
        "introspect": {"prompts": 2, "num_candidates": 2, "turns": 2, "held_out": 2},
        "length": {"prompts": 2, "num_generations": 2, "held_out": 2, "eval_generations": 2},
        "train-verify": {"prompts": 2, "max_steps": 2, "prompts_per_step": 2, "num_generations": 2,
                         "verify_share": 1.0},
    },
}  # fmt: skip
# That of few-prompts.yaml.
LEARNING_RATE = 1e-5
METRICS = LOGS[0]
# In a sentence the model states a rating nearly always, by the wording that is the default one time in three or less.
VERIFY_TEMPLATE = (
    '{prompt}\n\n{completion}\n\nSay whether the last answer is {right} or {wrong}: "The answer is {right}." or '
    '"The answer is {wrong}."'
)
VERIFY_RATINGS = ("correct", "incorrect", "missing")
EVALUATED = ("accuracy", "consensus", "entropy", "completion_length", "kl", "parse_rate")
VERIFIED = ("accuracy", "parse_rate", "verify/prompts", "verify/parse_rate", "verify/balanced_accuracy", "verify/auroc",
            "verify/accuracy", "verify/reward", "verify/completion_length", "verify/too_long")  # fmt: skip
TURNS = ("right", "majority", "samples_majority", "any_right", "samples_any_right", "mended", "kept", "same")


def training_steps(options: Options) -> list[Step]:
    """The commands, `explain` after the run that it explains."""
    sizes = SIZES["full" if options.size == "full" else "tiny"]
    listed = [
        ("few-prompts", 180, learn_from_few, ()), ("explain", 90, explain, ("few-prompts",)),
        ("introspect", 150, introspect, ()), ("length", 150, learn_lengths, ()),
        ("train-verify", 150, learn_to_verify, ()),
    ]  # fmt: skip
    return [
        command_step(options, name, seconds, measure, {each: sizes[each] for each in (*needed, name)})
        for name, seconds, measure, needed in listed
    ]


def learn_from_few(place: Place) -> dict[str, Any]:
    """Train on majority votes by the recipe for few prompts, on fewer of them and for fewer steps."""
    size = place.size["few-prompts"]
    run = place.run(
        "train",
        "few-prompts",
        config=RECIPES / "few-prompts.yaml",
        data=problems(size["prompts"], "train"),
        eval_data=problems(size["held_out"], "test"),
        guard_prompts=size["held_out"],
        **{name: size[name] for name in ("max_steps", "prompts_per_step", "num_generations", "eval_steps")},
    )
    rows = read_rows(run / METRICS)
    evaluated = [row for row in rows if "eval/accuracy" in row]
    return {
        "evaluations": [
            {"step": row["step"], **{name: row.get(f"eval/{name}") for name in EVALUATED}} for row in evaluated
        ],
        "steps": [{name: row.get(name) for name in ("step", "reward", "entropy", "accuracy")} for row in rows],
    }


def explain(place: Place) -> dict[str, Any]:
    """Ask what that run rewarded, of its start and its result alone."""
    size = place.size["explain"]
    run = place.only("few-prompts").runs / "few-prompts"
    # Where the guard takes an earlier policy for the best, model/ has that.
    tuned = next(path for path in (run / "last", run / "model") if path.is_dir())
    directory = place.run(
        "explain",
        "explain",
        str(place.common["model"]),
        str(tuned),
        model=None,
        data=problems(size["prompts"], "test"),
        num_generations=size["num_generations"],
    )
    found = read_json(directory / "explanation.json")
    return {
        "named": list(found["scores"]),
        "kl": found["kl"],
        "accuracy": found["accuracy"],
        "explained": found["explained"],
        "told_apart": found["told_apart"],
        "parted": {other: found["parted"].get("majority_vote", {}).get(other) for other in SHOWN},
        "scores": {name: found["scores"][name]["concordance"] for name in SHOWN if name in found["scores"]},
    }


def introspect(place: Place) -> dict[str, Any]:
    """Teach the model to improve on its own attempts, by gold answers, and measure it turn by turn."""
    size = place.size["introspect"]
    directory = place.run(
        "introspect",
        "introspect",
        data=problems(size["prompts"], "train"),
        eval_data=problems(size["held_out"], "test"),
        num_candidates=size["num_candidates"],
        turns=size["turns"],
        iterations=1,
    )
    found = read_json(directory / "introspect.json")
    return {
        "collected": summary(read_turns(directory / "turns-1.jsonl")),
        "attempts": found["attempts"],
        "models": {
            model: {name: measures[name] for name in TURNS if name in measures}
            for model, measures in found["models"].items()
        },
        "compared": found["compared"],
    }


def learn_lengths(place: Place) -> dict[str, Any]:
    """Learn preferences beside length instructions, by the recipe for self-feedback, and measure the learned reward."""
    size = place.size["length"]
    directory = place.run(
        "self-feedback",
        "length",
        config=RECIPES / "smollm2-self-feedback.yaml",
        dtype="float32",
        temperature=None,
        data=problems(size["prompts"], "train"),
        eval_data=problems(size["held_out"], "test"),
        num_generations=size["num_generations"],
        eval_generations=size["eval_generations"],
        length_conditioned=True,
    )
    rows = read_rows(directory / "train-dpo" / METRICS)
    measured = read_json(directory / "measure.json")["models"]
    return {
        "ranking": read_json(directory / "ranking.json"),
        "length": read_json(directory / "length.json"),
        "steps": len(rows),
        "length_accuracy_in_training": fmean(row["length/accuracy"] for row in rows),
        "models": {
            label: {name: row.get(name) for name in ("accuracy", "accuracy_se", "answered", "completion_length")}
            for label, row in measured.items()
        },
    }


def learn_to_verify(place: Place) -> dict[str, Any]:
    """Train to solve and to verify at once."""
    size = place.size["train-verify"]
    run = place.run(
        "train",
        "train-verify",
        "--verify-ratings",
        *VERIFY_RATINGS,
        data=problems(size["prompts"], "train"),
        reward="rise",
        verify=True,
        verify_template=VERIFY_TEMPLATE,
        guard="off",
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        **{name: size[name] for name in ("max_steps", "prompts_per_step", "num_generations", "verify_share")},
    )
    rows = read_rows(run / METRICS)
    return {"steps": [{"step": row["step"], **{name: row.get(name) for name in VERIFIED}} for row in rows]}
