"""Directories of runs, written by hand: what `rlif report` reads, with whatever is to be tried in them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HOSTILE = (
    '<script>alert(1)</script></pre></article>"\'><img src="http://example.com/x.png" onerror=alert(2)>&amp;\x1b[2J'
)
CONFIG = (
    "# rlif 1.2.3, Python 3.11\nmodel: some/model\ndata: prompts.jsonl\nmax_steps: 30\nguard_patience: 2\n"
    "learning_rate: 0.001\n"
)


def evaluation(step: int, consensus: float, **more: float) -> dict[str, Any]:
    """A row of metrics with an evaluation that a guard has seen."""
    metrics = {
        "consensus": consensus, "consensus_prompts": 0.9, "num_compared": 400, "accuracy": 0.9 * consensus,
        "entropy": 0.5 - 0.01 * step, "self_certainty": 3.0 + 0.1 * step, "base_nll": 0.4, "base_nll_error": 0.01,
        "kl": 0.001 * step, "eos_rate": 1.0, "parse_rate": 0.95, "repetition": 0.01, "completion_length": 20.0,
    }  # fmt: skip
    row = {f"eval/{name}": value for name, value in (metrics | more).items()}
    return {"step": step, "guard/falling": 0.0, **row} | ({"reward": 3.0 + 0.1 * step} if step else {})


# Rises, falls beyond chance at the fourth and the fifth evaluation, and stays down.
RISE_AND_FALL = [evaluation(10 * place, share) for place, share in enumerate((0.5, 0.7, 0.69, 0.4, 0.3, 0.3))]


def sample(step: int, completion: str, split: str = "eval", *, coloured: bool = True, **more: Any) -> dict[str, Any]:
    """A row of samples, a token for each character and one for the end."""
    count = len(completion) + 1
    share = [place / max(1, count - 1) for place in range(count)]
    tokens = {
        "lengths": [1] * (count - 1) + [0],
        "logprob": [-3 * each for each in share],
        "entropy": [2 * each for each in share],
        "self_certainty": [9 - 8 * each for each in share],
    }
    row = {
        "step": step, "prompt": "1+1=", "completion": completion, "stated": "2", "tier": "tag", "finished": True,
        "answer": "2", "split": split, "reward": None, "tokens": tokens if coloured else None,
    }  # fmt: skip
    return row | more


SAMPLES = [
    *(sample(step, f"{text}\nwell, {step}") for step in (0, 10, 50) for text in ("#### 2", HOSTILE)),
    *(
        sample(step, f"reward {reward}", "train", reward=reward, prompt=HOSTILE)
        for step in (1, 50)
        for reward in (0.5, 2.5, 1.5, 3.5, 4.5)
    ),
]


def write_run(
    path: Path,
    rows: Sequence[dict[str, Any]] = RISE_AND_FALL,
    samples: Sequence[dict[str, Any]] | None = SAMPLES,
    config: str | None = CONFIG,
) -> Path:
    """Write the files of a run without a model, and return its directory."""
    path.mkdir(parents=True)
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if samples is not None:
        (path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in samples))
    if config is not None:
        (path / "config.yaml").write_text(config)
    return path
