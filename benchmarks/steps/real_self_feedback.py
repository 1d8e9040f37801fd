"""Suite `real-self-feedback`: RLSF on word problems with a real language model, before and after.

    python -m benchmarks real-self-feedback --model DIR

Each seed is `rlif self-feedback` by examples/recipes/smollm2-self-feedback.yaml, in float32 where the processor has no
instructions for bfloat16. Stages go on where they were stopped, and what is finished is not made again:
runs/self-feedback-recipe keeps it, by the model and the recipe.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from benchmarks.runner import Options, Step
from benchmarks.steps.recipe import dtype, run_rlif
from rlif.files.fingerprint import fingerprint
from rlif.files.json_values import write_json

RECIPE = Path(__file__).parents[2] / "examples" / "recipes" / "smollm2-self-feedback.yaml"
RUNS = Path("runs") / "self-feedback-recipe"
SEEDS = 2
# Of a tiny run, which shows that everything works.
TINY = {"data": "word_problems:level=1,n=2,split=train", "eval_data": "word_problems:level=1,n=2,split=test",
        "chat": False, "num_generations": 3, "max_completion_length": 3, "min_gap": 0.0, "threshold": 0.0,
        "answered_only": False, "answer_span": "trace", "choose_unfinished": True}  # fmt: skip
MEASURES = ("accuracy", "accuracy_se", "answered", "completion_length")


def steps(options: Options) -> list[Step]:
    """One for each seed."""
    return [
        Step(f"seed {seed}", 600, partial(add_seed, options, seed))
        for seed in range(min(SEEDS, options.repeats) if options.size == "full" else 1)
    ]


def add_seed(options: Options, seed: int, results: dict[str, Any]) -> str:
    """Run all stages, and add the ranking and what was measured before and after to the entries."""
    assert options.model is not None  # as the command line sees to
    changed = {"dtype": dtype(options.device)} | ({} if options.size == "full" else TINY)
    recipe = yaml.safe_load(RECIPE.read_text(encoding="utf-8")) | changed
    results["model"], results["recipe"] = options.model.name, recipe
    runs = RUNS / f"{options.model.name}-{fingerprint([recipe, str(options.model.resolve())])[:8]}"
    run = runs / f"seed-{seed}"
    found = run.with_suffix(".json")
    if not found.exists():
        asked = changed | {"config": RECIPE, "model": options.model, "seed": seed, "output_dir": run}
        seconds = run_rlif("self-feedback", asked | {"device": options.device})
        write_json(found, entry(run, seed, seconds))
    results["entries"].append(json.loads(found.read_text(encoding="utf-8")))
    models = results["entries"][-1]["models"]
    return f"accuracy {models['start model']['accuracy']:.1%} to {models['tuned model']['accuracy']:.1%}"


def entry(run: Path, seed: int, seconds: float) -> dict[str, Any]:
    """What is kept of a run: what its stages wrote, without samples."""
    measured = json.loads((run / "measure.json").read_text(encoding="utf-8"))
    confidence = measured["confidence"]
    kept = {*MEASURES, *(f"{confidence}/{name}" for name in ("mean", "auroc", "ece", "brier"))}
    return {
        "seed": seed,
        "seconds": seconds,
        "ranking": json.loads((run / "ranking.json").read_text(encoding="utf-8")),
        "confidence": confidence,
        "models": {
            label: {name: value for name, value in row.items() if name in kept}
            for label, row in measured["models"].items()
        },
    }
