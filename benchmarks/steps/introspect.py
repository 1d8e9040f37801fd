"""Suite `introspect`: what does recursive introspection teach the built-in base model, turn by turn?

The base model, which `rlif demo` starts from, learns from turns by gold answers and by the majority. Before and after,
it attempts held-out problems over five turns, and has as many independent samples beside. The runs are kept in
runs/introspect, by the settings, and go on from there: what is finished is not made again.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.runner import Options, Step
from rlif.demo.options import DemoConfig
from rlif.files.fingerprint import fingerprint
from rlif.files.json_values import read_json
from rlif.introspection.collect import read_turns, summary
from rlif.introspection.command import run as run_introspect
from rlif.introspection.options import IntrospectConfig
from rlif.introspection.report import REPORT_FILE
from rlif.options.record import CONFIG_FILE
from rlif.tasks.arithmetic import Split, completion_length, write_jsonl
from rlif.tasks.built_in_models import pretrained_base

RUNS = Path("runs") / "introspect"
# What each run is told beside the settings that all have in common.
TRAINED: dict[str, dict[str, Any]] = {"gold": {"labels": "gold"}, "majority": {"labels": "majority"}}
# Problems to learn from, candidates, held-out problems, turns.
SIZES = {"full": (512, 8, 256, 5), "quick": (128, 8, 64, 5), "tiny": (8, 2, 4, 2)}
# The feedback is a character of the task. The base model has seen single problems alone: with an attempt before them
# next to none is right, so that the first candidates are blind. It is ten thousand times smaller than the paper's.
HOW: dict[str, Any] = {
    "feedback": "?",
    "iterations": 2,
    "blind_iterations": 1,
    "learning_rate": 2e-3,
    "num_train_epochs": 5,
    "items_per_step": 32,
}
SEEDS = 3


def steps(options: Options) -> list[Step]:
    """One for each run, the first seed of all first."""
    seeds = range(min(SEEDS, options.repeats) if options.size == "full" else 1)
    return [
        Step(f"{name}, seed {seed}", 90, partial(add_run, options, name, seed)) for seed in seeds for name in TRAINED
    ]


def add_run(options: Options, name: str, seed: int, results: dict[str, Any]) -> str:
    """Introspect, and add what was found to the entries."""
    num_prompts, num_candidates, held_out, turns = SIZES[options.size]
    demo = DemoConfig(seed=seed)
    task, start = demo.base.task, pretrained_base(demo.base)
    settings = {
        "num_prompts": num_prompts,
        "num_candidates": num_candidates,
        "held_out": held_out,
        "turns": turns,
        **HOW,
    }
    results["settings"] = settings
    runs = RUNS / fingerprint([settings, TRAINED, start.name])[:8]
    runs.mkdir(parents=True, exist_ok=True)
    data = {}
    splits: tuple[tuple[Split, int], ...] = (("train", num_prompts), ("eval", held_out))
    for split, count in splits:
        data[split] = runs / f"{split}-{seed}.jsonl"
        if not data[split].exists():
            write_jsonl(data[split], task, split, count, seed)
    directory = runs / f"{name.replace(', ', '-').replace(' ', '-')}-seed-{seed}"
    if not (directory / REPORT_FILE).exists():
        run_introspect(
            IntrospectConfig(
                model=str(start),
                data=str(data["train"]),
                eval_data=str(data["eval"]),
                output_dir=directory,
                resume=(directory / CONFIG_FILE).exists(),
                max_completion_length=completion_length(task),
                num_candidates=num_candidates,
                turns=turns,
                seed=seed,
                device=options.device,
                **HOW,
                **TRAINED[name],
            )
        )
    found = read_json(directory / REPORT_FILE)
    results["entries"].append(
        {
            "run": name,
            "seed": seed,
            **{kept: found[kept] for kept in ("prompts", "attempts", "models", "compared")},
            "collected": [
                summary(read_turns(directory / f"turns-{iteration}.jsonl"))
                for iteration in range(1, HOW["iterations"] + 1)
            ],
        }
    )
    gain = found["compared"]["tuned"][f"m1@t{turns} less m{turns}@t1"]
    return f"m1@t{turns} less m{turns}@t1 {gain['value']:+.1%} ({gain['low']:+.1%} to {gain['high']:+.1%})"
