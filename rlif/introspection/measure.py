"""What several turns are worth: beside as many independent samples, with an oracle that stops at the first right
attempt, and without.

An attempt that is not the last one is answered in the same way whether it is right or not. So what an oracle would have
stopped at is a part of what was sampled without one, and both are measured of the same attempts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlif.answers.matching import is_right
from rlif.answers.math_verification import RUN_SECONDS, limited_cost
from rlif.errors import UserError
from rlif.evaluation.completions import completion_row
from rlif.files.json_values import without_nan
from rlif.files.jsonl import Row, read_rows
from rlif.introspection.collect import PROMPTS_PER_BATCH
from rlif.introspection.options import IntrospectConfig
from rlif.metrics.bootstrap import Bootstrap, Estimate, Floats, Resampled
from rlif.metrics.selection import answer_clusters, chosen, majority_at_k, majority_choice, pass_at_k
from rlif.models.language_model import LanguageModel
from rlif.rollouts.batch_size import prompts_at_a_time
from rlif.rollouts.encode import EncodedPrompt
from rlif.rollouts.turns import Conversation, Turns

# Keeps the random numbers of independent samples apart from those of turns.
SAMPLES_SEED = 1


@dataclass(frozen=True)
class Measuring:
    """A model and held-out prompts."""

    config: IntrospectConfig
    language_model: LanguageModel
    prompts: list[EncodedPrompt]

    def batch_size(self) -> int:
        """Return how many prompts are worked on at a time."""
        return self.config.prompts_per_batch or prompts_at_a_time(
            self.language_model,
            self.prompts,
            num_generations=self.config.turns,
            max_completion_length=self.config.max_completion_length,
            at_most=PROMPTS_PER_BATCH,
        )

    def rows(self, start: int, prompts: Sequence[EncodedPrompt]) -> list[Row]:
        """Return the rows of some prompts, the first of which is number `start` of all: turns, and samples beside."""
        config = self.config
        turns = Turns(self.language_model, config, (0, config.seed), config.window)
        found = [Conversation(start + offset, prompt) for offset, prompt in enumerate(prompts)]
        single = [Conversation(start + offset, prompt) for offset, prompt in enumerate(prompts)]
        sampler = replace(turns, seeds=(SAMPLES_SEED, config.seed))
        for asked in sampler.batches(single, num_generations=config.turns, at_most=len(prompts)):
            rollout = sampler.sample(asked, config.turns)
            for row in range(len(rollout.texts)):
                asked[row // config.turns][0].add(rollout, row)
        for _ in range(config.turns):
            for asked in turns.batches(found, at_most=len(prompts)):
                rollout = turns.sample(asked)
                for row, (each, _) in enumerate(asked):
                    each.add(rollout, row)
        return [
            completion_row(
                each.prompt.text,
                each.prompt.answer,
                each.texts,
                {},
                tokens=each.tokens,
                finished=each.finished,
                stated=each.answers,
                end=each.end,
                samples=beside.texts,
                samples_stated=beside.answers,
                samples_tokens=beside.tokens,
            )
            for each, beside in zip(found, single, strict=True)
        ]


@dataclass(frozen=True)
class Taken:
    """T turns at each of P prompts with a gold answer, and T independent samples. An attempt that is missing, for want
    of room, leaves everything as it was."""

    attempts: NDArray[np.bool_]
    """(P, T) whether there was one."""
    right: NDArray[np.bool_]
    """(P, T) whether the last attempt until this turn is right."""
    clusters: NDArray[np.int64]
    """(P, T) the same number for the same answer; -1 where none is stated, and where there was no attempt."""
    tokens: Floats
    """(P, T) of the attempt; 0 where there was none."""
    samples_right: NDArray[np.bool_]
    """(P, T)."""
    samples_clusters: NDArray[np.int64]
    """(P, T)."""
    samples_tokens: Floats
    """(P,) of all."""

    def by_prompt(self) -> dict[str, Floats]:
        """Everything that is measured, of each prompt: (P, T) by turn, or of as many samples as that; (P,) tokens.

        What a turn changed is NaN in the first. Whether an attempt is right after a wrong one is `mended`, and after a
        right one `kept`: NaN where there is none such.
        """
        turns = self.right.shape[1]
        counts = range(1, turns + 1)
        right = self.right.astype(np.float64)
        before, same = np.full(right.shape, np.nan), np.full(right.shape, np.nan)
        before[:, 1:] = right[:, :-1]
        same[:, 1:] = (self.clusters[:, 1:] >= 0) & (self.clusters[:, 1:] == self.clusters[:, :-1])
        same[~self.attempts] = np.nan
        tried = np.maximum.accumulate(right, axis=1)
        # Until the first right one: a turn counts if none before it was right.
        needed = np.concatenate([np.ones((len(right), 1)), 1 - tried[:, :-1]], axis=1)
        return {
            "right": right,
            "majority": _columns([chosen(self.right, majority_choice(self.clusters[:, :k])) for k in counts]),
            "any_right": tried,
            "samples_majority": _columns([majority_at_k(self.samples_right, self.samples_clusters, k) for k in counts]),
            "samples_any_right": _columns([pass_at_k(self.samples_right, k) for k in counts]),
            "gained": np.where(np.isnan(before), np.nan, (before == 0) * right),
            "lost": np.where(np.isnan(before), np.nan, (before == 1) * (1 - right)),
            "mended": np.where((before == 0) & self.attempts, right, np.nan),
            "kept": np.where((before == 1) & self.attempts, right, np.nan),
            "same": same,
            "tokens": self.tokens.sum(axis=1),
            "tokens_with_oracle": (self.tokens * needed).sum(axis=1),
            "samples_tokens": self.samples_tokens,
        }


def _columns(values: Sequence[Floats]) -> Floats:
    return np.stack(values, axis=1)


def read_taken(path: Path, turns: int) -> Taken:
    """Read a finished file of `Measuring.rows`, of its prompts those with a gold answer.

    Raises:
        UserError: it cannot be read, has no gold answer, or has changed.
    """
    rows = [row for row in read_rows(path, sealed_only=True) if row["answer"] is not None]
    if not rows:
        raise UserError(f"output_dir: {path} has no prompt with a gold answer, expected one at least")
    attempts = np.array([np.arange(turns) < len(row["stated"]) for row in rows])
    right, tokens = np.zeros(attempts.shape, dtype=bool), np.zeros(attempts.shape)
    samples_right = np.zeros(attempts.shape, dtype=bool)
    with limited_cost(RUN_SECONDS):
        for place, row in enumerate(rows):
            gold, count = row["answer"], len(row["stated"])
            right[place, :count] = [answer is not None and is_right(answer, gold) for answer in row["stated"]]
            right[place, count:] = right[place, count - 1]
            tokens[place, :count] = row["tokens"]
            samples_right[place] = [answer is not None and is_right(answer, gold) for answer in row["samples_stated"]]
        clusters = answer_clusters([[*row["stated"], *[None] * (turns - len(row["stated"]))] for row in rows])
        samples_clusters = answer_clusters([row["samples_stated"] for row in rows])
    samples_tokens = np.array([sum(row["samples_tokens"]) for row in rows], dtype=np.float64)
    return Taken(attempts, right, clusters, tokens, samples_right, samples_clusters, samples_tokens)


@dataclass(frozen=True)
class Measured:
    """What was found of one or two models. Shares are of all prompts."""

    prompts: int
    attempts: dict[str, list[int]]
    """Of each model, by turn: prompts that had one."""
    models: dict[str, dict[str, list[Estimate]]]
    """Of each model and each measure of `Taken.by_prompt`, by turn; tokens have one number."""
    compared: dict[str, dict[str, Estimate]]
    """Of each model the differences that turns make to as many samples; "tuned less start" those of the models."""

    def to_json(self) -> dict[str, Any]:
        """As JSON holds it: null for NaN."""
        found: dict[str, Any] = without_nan(asdict(self))
        return found


def measure(models: Mapping[str, Taken], *, resamples: int = 1000, seed: int = 0) -> Measured:
    """Measure models on the same prompts, and resample these for the intervals.

    Args:
        models: by name, "start" and perhaps "tuned".
        resamples: of the prompts.
        seed: of the resamples.
    """
    values = {name: taken.by_prompt() for name, taken in models.items()}
    prompts, turns = next(iter(models.values())).right.shape
    bootstrap = Bootstrap(prompts, resamples=resamples, seed=seed)

    def mean(model: str, measure: str, turn: int = -1) -> Resampled:
        return bootstrap.mean(values[model][measure][:, turn])

    def less(one: Resampled, other: Resampled) -> Estimate:
        return Resampled(one.value - other.value, one.resamples - other.resamples).estimate

    # Names of the paper: m votes of the majority, p any attempt that is right; the number of samples, at the turns.
    names = {
        "m1@t1": ("right", 0),
        f"m{turns}@t1": ("samples_majority", -1),
        f"m1@t{turns}": ("majority", -1),
        f"p1@t{turns}": ("any_right", -1),
        f"pass@{turns}": ("samples_any_right", -1),
    }
    compared = {
        model: {
            f"m1@t{turns} less m{turns}@t1": less(mean(model, "majority"), mean(model, "samples_majority")),
            f"p1@t{turns} less pass@{turns}": less(mean(model, "any_right"), mean(model, "samples_any_right")),
            "last turn less m1@t1": less(mean(model, "right"), mean(model, "right", 0)),
        }
        for model in models
    }
    if "tuned" in models:
        differences = {name: less(mean("tuned", *place), mean("start", *place)) for name, place in names.items()}
        both = less(mean("tuned", "majority"), mean("start", "samples_majority"))
        compared["tuned less start"] = differences | {f"m1@t{turns} less m{turns}@t1 of the start": both}
    return Measured(
        prompts,
        {name: taken.attempts.sum(axis=0).tolist() for name, taken in models.items()},
        {
            model: {
                measure: [bootstrap.mean(column).estimate for column in np.atleast_2d(each.T)]
                for measure, each in of_model.items()
            }
            for model, of_model in values.items()
        },
        compared,
    )
