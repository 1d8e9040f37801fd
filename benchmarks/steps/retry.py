"""Suite `retry`: what does trying again with a discriminator come to, and what does the rejected attempt add?

A discriminator is fitted on samples of the built-in base model, which `rlif demo` starts from, by gold answers and by
the majority. It judges attempts at held-out problems, with the rejected ones in the context and without. Beside it
stands the majority of as many independent samples as there may be attempts.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.runner import Options, Step
from rlif.demo.options import DemoConfig
from rlif.evaluation.completions import Completions, read_completions
from rlif.evaluation.options import EvalConfig
from rlif.evaluation.sampling import prepare_sampling
from rlif.files.json_values import read_json
from rlif.metrics.selection import majority_at_k
from rlif.options.groups import Labels
from rlif.retry.command import run as run_retry
from rlif.retry.options import RetryConfig
from rlif.tasks.arithmetic import completion_length, write_jsonl
from rlif.tasks.built_in_models import pretrained_base

# Problems to fit on, completions of each, problems to answer, attempts at most.
SIZES = {"full": (256, 4, 256, 5), "quick": (64, 4, 64, 5), "tiny": (8, 4, 6, 2)}
# By which labels, and whether rejected attempts are shown.
VARIANTS: tuple[tuple[Labels, bool], ...] = (("gold", False), ("gold", True), ("majority", False))
KEPT = (
    "first",
    "accuracy",
    "any_right",
    "precision",
    "gain",
    "recall",
    "auroc",
    "attempts",
    "tokens",
    "ends",
    "rounds",
)


def steps(options: Options) -> list[Step]:
    """One for each seed."""
    return [Step(f"seed {seed}", 60, partial(add_seed, options, seed)) for seed in range(options.repeats)]


def add_seed(options: Options, seed: int, results: dict[str, Any]) -> str:
    """Fit, answer in every way, and add what was found to the entries."""
    fitted, num_generations, asked, max_rounds = SIZES[options.size]
    demo = DemoConfig(seed=seed)
    task, start = demo.base.task, pretrained_base(demo.base)
    results |= {"fitted_on": fitted, "asked": asked, "max_rounds": max_rounds, "num_generations": num_generations}
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        write_jsonl(place / "train.jsonl", task, "train", fitted, seed)
        write_jsonl(place / "eval.jsonl", task, "eval", asked, seed)
        common: dict[str, Any] = {
            "model": str(start),
            "max_completion_length": completion_length(task),
            "seed": seed,
            "device": options.device,
        }

        def samples(name: str, count: int) -> Completions:
            config = EvalConfig(data=str(place / f"{name}.jsonl"), num_generations=count, **common)
            prepare_sampling(config).run(place / f"{name}-completions.jsonl")
            return read_completions(place / f"{name}-completions.jsonl")

        samples("train", num_generations)
        independent = samples("eval", max_rounds)
        majority = majority_at_k(independent.correct(), independent.clusters, max_rounds)
        results["entries"].append({"seed": seed, "labels": "", "majority": float(majority.mean())})
        for labels, shown in VARIANTS:
            directory = place / f"{labels}-{shown}"
            run_retry(
                RetryConfig(
                    data=str(place / "eval.jsonl"),
                    fit_on=(place / "train-completions.jsonl",),
                    labels=labels,
                    show_rejected=shown,
                    max_rounds=max_rounds,
                    output_dir=directory,
                    **common,
                )
            )
            found = read_json(directory / "retry.json")
            kept = {name: found[name] for name in KEPT}
            results["entries"].append({"seed": seed, "labels": labels, "shown": shown, **kept})
    best = results["entries"][-len(VARIANTS)]
    if best["precision"]["value"] is None:
        return "no attempt was accepted"
    return f"precision {best['precision']['value']:.1%}, {best['gain']['value']:+.1%} against first attempts"
