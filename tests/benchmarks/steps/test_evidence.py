"""The suite `evidence` tells a score that knows what is right from one that does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report.answering import evidence as evidence_table
from benchmarks.steps.evidence import measure


def test_a_score_that_knows_and_one_that_knows_nothing(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    rows = []
    for number in range(60):
        right = generator.random(4) < 0.5
        answers = [str(number) if each else str(number + 100 + place) for place, each in enumerate(right)]
        scores = {"knows_all": right + 0.1 * generator.random(4), "knows_nothing": generator.random(4)}
        row = {
            "prompt": f"{number}+0",
            "answer": str(number),
            "completions": [f"#### {answer}" for answer in answers],
            "tokens": [3, 4, 5, 6],
            "finished": [True] * 4,
            "scores": {name: list(map(float, values)) for name, values in scores.items()},
        }
        rows.append(row)
    path = tmp_path / "completions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "config.yaml").write_text(
        "model: dir/small\ndata: sums\nsystem_prompt: null\nchat: true\ntemperature: 1.0\n"
        "max_completion_length: 8\nanswer_style: strict\nseed: 0\n"
    )
    results: dict[str, Any] = {}
    measure(path, results)
    assert results["scores"]["knows_all"]["auroc"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    nothing = results["scores"]["knows_nothing"]["auroc"]
    # Of 120 right and 120 wrong ones the standard error is 0.037.
    assert abs(nothing["value"] - 0.5) < 4 * 0.037
    assert nothing["low"] < nothing["value"] < nothing["high"]
    assert results["scores"]["fewer tokens"]["length_correlation"]["value"] == -1
    assert (
        results["scores"]["knows_all"]["isotonic_brier"] < 0.05 < results["scores"]["knows_nothing"]["isotonic_brier"]
    )
    best, vote = results["choices"]["best by knows_all"], results["choices"]["majority vote"]
    assert best["over_majority"]["low"] > 0
    assert vote["over_majority"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    text = evidence_table(results)
    assert "| `knows_all` | 1.00 (1.00 to 1.00) |" in text
    assert "`small`, `sums`, temperature 1: 240 completions of 60 prompts" in text
