"""Suite `evidence`: what do the confidence scores of a model know about its answers?

    rlif eval --model DIR --data … --output-dir runs/evidence
    python -m benchmarks evidence --completions runs/evidence/completions.jsonl

Every score's discrimination, its correlation with length, its calibration, and what is right if it chooses among the
completions of a prompt, with intervals from resampled prompts. What was sampled, and how, is read from the
`config.yaml` beside the completions.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from benchmarks.runner import Options, Step
from rlif.evaluation.completions import ALL_SCORES, Completions, read_completions
from rlif.evaluation.measure import all_scores, confidences
from rlif.files.jsonl import read_rows
from rlif.metrics.bootstrap import Bootstrap, Resampled
from rlif.metrics.calibration import (
    auroc_by_group,
    brier_score,
    expected_calibration_error,
    isotonic_confidence,
)
from rlif.metrics.selection import best_choice, borda_choice, chosen, majority_choice

RESAMPLES = 2000
BORDA_POWER = 1.2
SAMPLED = ("model", "data", "system_prompt", "chat", "temperature", "max_completion_length", "answer_style", "seed")


def steps(options: Options) -> list[Step]:
    assert options.completions is not None
    return [Step("scores and choices", 30, partial(measure, options.completions))]


def measure(path: Path, results: dict[str, Any]) -> str:
    """Measure a file of completions that `rlif eval` wrote."""
    config = yaml.safe_load((path.parent / "config.yaml").read_text(encoding="utf-8"))
    completions = read_completions(path, answer_style=config["answer_style"])
    tokens = np.array([row["tokens"] for row in read_rows(path)], dtype=np.float64)
    results["settings"] = {name: config[name] for name in SAMPLED} | {"model": Path(config["model"]).name}
    has_gold = [gold is not None for gold in completions.golds]
    results |= evidence(completions.labelled(), tokens[has_gold])
    return f"{results['right']['value']:.0%} of {results['completions']} completions right"


def evidence(completions: Completions, tokens: NDArray[np.float64]) -> dict[str, Any]:
    """Measure completions with gold answers.

    Args:
        completions: (P, N).
        tokens: (P, N) their lengths.

    Returns:
        What a results file holds; every estimate as value, low and high, the 95% interval over prompts.
    """
    right = completions.correct()
    bootstrap = Bootstrap(len(right), resamples=RESAMPLES, seed=0)
    majority = chosen(right, majority_choice(completions.clusters))
    scores = confidences(completions) | {ALL_SCORES: all_scores(completions)}
    choices = {"majority vote": majority, "any one": right.mean(axis=1)}
    choices |= {
        f"best by {name}": chosen(right, best_choice(values, completions.clusters))
        for name, values in completions.scores.items()
    }
    choices |= {
        f"Borda by {name}": chosen(right, borda_choice(values, completions.clusters, BORDA_POWER))
        for name, values in completions.scores.items()
    }
    return {
        "prompts": len(right),
        "completions": int(right.size),
        "num_generations": right.shape[1],
        "borda_power": BORDA_POWER,
        "right": shown(bootstrap.mean(right.mean(axis=1))),
        "stated": shown(bootstrap.mean((completions.clusters >= 0).mean(axis=1))),
        "scores": {
            # The shorter completion as the surer one: what a score has to beat.
            name: score_evidence(values, right, tokens, bootstrap)
            for name, values in {**scores, "fewer tokens": -tokens}.items()
        },
        "choices": {
            name: {"right": shown(bootstrap.mean(values)), "over_majority": shown(bootstrap.mean(values - majority))}
            for name, values in choices.items()
        },
    }


def score_evidence(
    values: NDArray[np.float64], right: NDArray[np.bool_], tokens: NDArray[np.float64], bootstrap: Bootstrap
) -> dict[str, Any]:
    groups = np.repeat(np.arange(len(right)), right.shape[1])
    probability = isotonic_confidence(values.ravel(), right.ravel(), groups)
    return {
        "auroc": shown(bootstrap.auroc(values, right)),
        "auroc_within": shown(bootstrap.mean(auroc_by_group(values, right))),
        "length_correlation": shown(bootstrap.correlation(centred(values), centred(tokens))),
        "isotonic_ece": expected_calibration_error(probability, right.ravel()),
        "isotonic_brier": brier_score(probability, right.ravel()),
    }


def centred(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values - values.mean(axis=1, keepdims=True)


def shown(resampled: Resampled) -> dict[str, float | None]:
    estimate = resampled.estimate
    return {
        name: None if np.isnan(value) else round(value, 5)
        for name, value in (("value", estimate.value), ("low", estimate.low), ("high", estimate.high))
    }
