"""Suite `word-prompts`: after which instruction does a model state answers to word problems, and which are too hard?

    python -m benchmarks word-prompts --model DIR

Every wording is put before the same problems of level 1, at the temperature of the recipe; then that of the recipe at
other temperatures, and before problems of all levels. Problems are those of the training templates. The completions
are kept in runs/word-prompts, to be read.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from benchmarks.runner import Options, Step
from rlif.evaluation.completions import read_completions
from rlif.evaluation.options import EvalConfig
from rlif.evaluation.sampling import prepare_sampling
from rlif.files.jsonl import read_rows
from rlif.metrics.selection import Mean, mean_over_prompts
from rlif.tasks.word_problems.problems import read_spec

RECIPE = Path(__file__).parents[2] / "examples" / "recipes" / "smollm2-word-problems.yaml"
COMPLETIONS = Path("runs") / "word-prompts"


class Wording(NamedTuple):
    """How a problem is put to the model."""

    system_prompt: str | None = None
    """None: the one that the chat template puts there by itself, if any."""
    shots: int = 0
    """Solved problems before it."""


WORDINGS = {
    "4 shots": Wording(shots=4),
    "2 shots": Wording(shots=2),
    "none": Wording(),
    "number alone": Wording("Answer with a single number and nothing else."),
    "phrase": Wording('Solve the problem step by step. End with "The answer is" and the number.'),
    "marker": Wording('Solve the problem step by step. End with "#### " and the number.'),
    "short": Wording("Solve the math problem in one or two short sentences. End with the answer."),
    "example": Wording(
        "Solve the math problem. Write the calculation, then the answer, as in this example.\n"
        "Problem: A shelf holds 4 red books and 9 blue books. How many books does it hold?\n"
        "Solution: It holds 4 + 9 = 13 books.\n#### 13"
    ),
}
# Of the recipe's wording.
TEMPERATURES = (1.0, 0.3)
LEVELS = range(1, 9)


def steps(options: Options) -> list[Step]:
    compared, each_level = {"full": (8, 12), "quick": (4, 4), "tiny": (2, 2)}[options.size]
    recipe = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    chosen = {name: recipe[name] for name in ("temperature", "max_completion_length")}
    asked = [(name, evaluation(options, each, level=1, prompts=compared, **chosen)) for name, each in WORDINGS.items()]
    asked += [
        ("recipe", evaluation(options, recipe_wording(), level=1, prompts=compared, **chosen | {"temperature": each}))
        for each in TEMPERATURES
    ]
    asked += [
        ("recipe", evaluation(options, recipe_wording(), level=each, prompts=each_level, **chosen)) for each in LEVELS
    ]
    return [Step(f"{name}, level {level_of(config)}", 60, partial(measure, name, config)) for name, config in asked]


def recipe_wording() -> Wording:
    recipe = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    problems = read_spec(recipe["data"], argument="data", split=None, default_split="train")
    return Wording(recipe.get("system_prompt"), problems.shots)


def evaluation(options: Options, wording: Wording, *, level: int, prompts: int, **more: Any) -> EvalConfig:
    """Return what samples the problems of a level, the same ones whatever the wording."""
    return EvalConfig(
        model=str(options.model),
        data=f"word_problems:level={level},n={prompts},seed=0,split=train,shots={wording.shots}",
        system_prompt=wording.system_prompt,
        chat=True,
        device=options.device,
        num_generations=4,
        max_batch_tokens=8192,
        **more,
    )


def level_of(config: EvalConfig) -> int:
    assert config.data is not None
    return read_spec(config.data, argument="data", split=None, default_split="train").level


def measure(name: str, config: EvalConfig, results: dict[str, Any]) -> str:
    """Sample, and add to the entries what share of the completions ended, stated an answer, and were right."""
    level = level_of(config)
    path = COMPLETIONS / f"{name.replace(' ', '-')}-level-{level}-temperature-{config.temperature:g}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    prepare_sampling(config).run(path)
    entry: dict[str, Any] = {"wording": name, "level": level, "temperature": config.temperature} | summary(path)
    results["entries"].append(entry)
    results["model"] = Path(str(config.model)).name
    results["wordings"] = {each: wording._asdict() for each, wording in WORDINGS.items()}
    results["temperature"] = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))["temperature"]
    results["num_generations"] = config.num_generations
    return ", ".join(f"{key} {entry[key]['value']:.0%}" for key in ("stated", "right"))


def summary(path: Path) -> dict[str, Any]:
    """Shares of a file of completions, each a mean over prompts with its standard error, and the mean length."""
    rows = read_rows(path)
    completions = read_completions(path, answer_style="lenient")
    right = completions.correct()

    def share(values: Any) -> Mean:
        return mean_over_prompts(np.asarray(values, dtype=np.float64).mean(axis=1))

    means = {
        "ended": share([row["finished"] for row in rows]),
        "stated": share(completions.clusters >= 0),
        "right": share(right),
        # Groups whose completions are not all right or all wrong: all that a group's advantages can learn from.
        "mixed": mean_over_prompts([0 < count < right.shape[1] for count in right.sum(axis=1)]),
    }
    return {
        "prompts": len(rows),
        "completions": int(right.size),
        "tiers": dict(completions.tiers),
        "tokens": float(np.mean([row["tokens"] for row in rows])),
        **{name: mean._asdict() for name, mean in means.items()},
    }
