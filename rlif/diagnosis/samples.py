"""The completions of a diagnosis in numbers: a row for each prompt as they come, and arrays of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlif.answers.agreement import majorities
from rlif.files.json_values import without_nan
from rlif.files.jsonl import Row
from rlif.metrics.bootstrap import Floats
from rlif.metrics.repetition import repetition
from rlif.models.language_model import LanguageModel
from rlif.rewards import RewardMixture
from rlif.rewards.controls import verifiable
from rlif.rollouts.rollout import Rollout
from rlif_kernels import TokenStats


@dataclass(frozen=True)
class Samples:
    """P x G completions in numbers."""

    tokens: Floats
    entropy: Floats
    """Summed over the tokens; nats."""
    untempered_entropy: Floats
    """The same at temperature 1."""
    self_certainty: Floats
    """Summed over the tokens; nats."""
    finished: Floats
    parsed: Floats
    repetition: Floats
    agrees: Floats
    """1 for a completion that states its group's majority answer."""
    correct: Floats
    """NaN for a prompt without a gold answer."""
    rewards: dict[str, Floats]
    majority_answers: list[str]
    """Of the groups that have one."""
    unanswered: list[str]
    """The first completion of each group that states no answer, if one does not."""


def look_at(
    rollout: Rollout, stats: TokenStats, untempered: TokenStats, rewards: RewardMixture, language_model: LanguageModel
) -> list[Row]:
    """Put one batch of completions in numbers: a row for each prompt, with a list over its completions of each.

    Args:
        rollout: the completions of whole groups.
        stats: of their tokens at the temperature of sampling.
        untempered: the entropy at temperature 1.
        rewards: to judge.
        language_model: that sampled.
    """
    assert stats.entropy is not None
    assert untempered.entropy is not None
    assert stats.self_certainty is not None
    size = rollout.num_generations
    lengths = rollout.lengths()[1]
    ids = rollout.completion_ids.tolist()
    parts = rewards(stats, rollout, tokenizer=language_model.tokenizer, step=1).parts
    groups = majorities(rollout.stated, size)
    agrees = np.zeros(len(rollout.texts))
    agrees[[row for rows in groups for row in rows]] = 1.0
    known = np.array([answer is not None for answer in rollout.answers])
    columns = {
        "completions": rollout.texts,
        "tokens": lengths,
        "entropy": stats.entropy.sum(dim=1).tolist(),
        "untempered_entropy": untempered.entropy.sum(dim=1).tolist(),
        "self_certainty": stats.self_certainty.sum(dim=1).tolist(),
        "finished": rollout.finished.tolist(),
        "parsed": [each is not None for each in rollout.stated],
        "repetition": [repetition(row[:length]) for row, length in zip(ids, lengths, strict=True)],
        "agrees": agrees.tolist(),
        "correct": np.where(known, verifiable(rollout.stated, rollout.answers), np.nan).tolist(),
    }
    # A negative weight turns what is maximised round; one of 0, a mere metric in training, is judged as it is.
    judged = {each.name: ((-1 if each.weight < 0 else 1) * parts[each.name]).tolist() for each in rewards.rewards}
    return [
        without_nan(
            {"prompt": rollout.prompts[start]}
            | {name: values[start : start + size] for name, values in columns.items()}
            | {"rewards": {name: values[start : start + size] for name, values in judged.items()}}
            | {"majority_answer": first.text if rows and (first := rollout.stated[rows[0]]) else None}
        )
        for start, rows in zip(range(0, len(rollout.texts), size), groups, strict=True)
    ]


def join(rows: Sequence[Row]) -> Samples:
    """Put the rows of all prompts together; a null is NaN."""
    names = (
        *("tokens", "entropy", "untempered_entropy", "self_certainty"),
        *("finished", "parsed", "repetition", "agrees", "correct"),
    )
    unanswered = [
        next((text for text, parsed in zip(row["completions"], row["parsed"], strict=True) if not parsed), None)
        for row in rows
    ]
    return Samples(
        **{name: np.array([row[name] for row in rows], dtype=np.float64) for name in names},
        rewards={
            name: np.array([row["rewards"][name] for row in rows], dtype=np.float64) for name in rows[0]["rewards"]
        },
        majority_answers=[row["majority_answer"] for row in rows if row["majority_answer"] is not None],
        unanswered=[text for text in unanswered if text is not None],
    )
