"""Completions whose measures can be worked out by hand."""

from __future__ import annotations

import numpy as np

from rlif.evaluation.completions import Completions
from rlif.scoring.group_confidence import GROUP_SCORES, TOP_GROUP_SCORES

# Every confidence score of a sampled completion.
SCORE_NAMES = {
    "self_certainty",
    "token_entropy",
    "token_varentropy",
    "top_confidence",
    "trajectory_entropy",
    "sequence_logprob",
    "inverse_perplexity",
    "entropy_confidence",
    "probability_disparity",
    *GROUP_SCORES,
    *TOP_GROUP_SCORES,
}


def toy(golds: list[str | None] | None = None) -> Completions:
    """Two prompts: in the first the sure one is right, in the second the many are."""
    return Completions(
        prompts=["a", "b"],
        golds=["1", "2"] if golds is None else golds,
        answers=[["1", "3", "3", None], ["2", "2.0", "5", "2"]],
        scores={
            "self_certainty": np.array([[9.0, 1.0, 2.0, 3.0], [1.0, 2.0, 9.0, 3.0]]),
            "inverse_perplexity": np.array([[0.9, 0.1, 0.2, 0.3], [0.1, 0.2, 0.9, 0.3]]),
        },
    )
