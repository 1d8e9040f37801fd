"""Directories of evaluations, written by hand and measured by `rlif eval`: what `rlif report` reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from made_runs import HOSTILE, sample
from rlif.evaluation.completions import read_completions
from rlif.evaluation.measure import evaluate_completions
from rlif.evaluation.report import write_evaluation

CONFIG = (
    "# rlif 1.2.3, Python 3.11\nmodel: some/model\ndata: prompts.jsonl\nnum_generations: 4\ntop_p: 0.9\n"
    "answer_style: strict\n"
)


def row(number: int, **more: Any) -> dict[str, Any]:
    """A prompt with four completions, of which the second and the fourth are right; the later the prompt, the surer."""
    texts = [f"{number}: {HOSTILE} #### 3", f"{number}: sum\n#### 2", f"{number}: no answer", f"{number}: two #### 2"]
    scores = {"token_entropy": [-0.5, -0.25, -0.75, -0.125], "self_certainty": [number + 9.0, 8.0 - number, 1.0, 3.0]}
    found = {
        "prompt": f"1+1= ({number}) {HOSTILE}", "answer": "2", "completions": texts, "tokens": [4, 4, 4, 4],
        "finished": [True, True, False, True], "scores": scores,
        "token_confidence": [sample(0, text)["tokens"] for text in texts],
    }  # fmt: skip
    return found | more


ROWS = [row(number) for number in range(8)]


def results() -> dict[str, Any]:
    """What eval.json holds of a small evaluation."""
    quality = {"auroc": 0.75, "auroc_within": None, "aurc": 0.25, "as_is": None, "isotonic": {"ece": 0.1, "brier": 0.2}}
    mean = {"value": 0.5, "standard_error": 0.125}
    return {
        "prompts": 2, "num_generations": 4, "labelled": 2, "tiers": {"marker": 0.75}, "scores": {"a": quality},
        "label_free": {"answered": mean, "a": {"value": -1.5, "standard_error": None}},
        "selection": {"accuracy@1": mean, "majority@4": mean},
    }  # fmt: skip


def write_evaluated(path: Path, rows: Sequence[dict[str, Any]] = ROWS, config: str | None = CONFIG) -> Path:
    """Write the files of an evaluation that is finished, and return its directory."""
    write_sampled(path, rows, config)
    completions = read_completions(path / "completions.jsonl")
    write_evaluation(evaluate_completions(completions), completions, path)
    return path


def write_sampled(path: Path, rows: Sequence[dict[str, Any]] = ROWS, config: str | None = CONFIG) -> Path:
    """Write the files of an evaluation that is not measured yet, and return its directory."""
    path.mkdir(parents=True)
    (path / "completions.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    if config is not None:
        (path / "config.yaml").write_text(config)
    return path
