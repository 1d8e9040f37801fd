"""How long each reward carries a model: a short training of its copy, up to the step at which it collapses.

Every internal reward sharpens what a model believes, and so ends in a collapse (arXiv 2603.08660). When it comes is a
matter of the model: that paper trains seven models of 1.5 to 8 billion parameters on majority votes, and those that
collapse later gain more from right answers. Its collapse step is found with gold answers; ours is that of the guard
(`rlif.training.guard`), without.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rlif.data.prompts import read_with_options
from rlif.diagnosis.diagnose import Diagnosis
from rlif.diagnosis.options import DiagnoseConfig
from rlif.training.guard import Guard, highest_of
from rlif.training.loop import TrainResult
from rlif.training.outcome import run_once

# Prompts on which a training hardly collapses, however long (arXiv 2603.08660): it learns them by heart.
SAFE_PROMPTS = 128
# What is kept of an evaluation.
KEPT = ("consensus", "agreement", "entropy", "kl", "completion_length")


@dataclass(frozen=True)
class ShortTraining:
    """What became of a copy of the model that was trained on one reward."""

    steps: int
    """Steps that were trained: up to the collapse, or all."""
    collapse_step: int | None
    """The first evaluated step at which the policy had collapsed; None if it had not."""
    evaluations: list[dict[str, float]]
    """By step: consensus, the share of completions that give the start model's majority answer, absent where too few
    prompts have one; agreement within groups; entropy and kl to the start model in nats a token; completion_length in
    tokens."""
    summary: str
    """One sentence that says it."""


def train_shortly(config: DiagnoseConfig, diagnosis: Diagnosis, directory: Path) -> Diagnosis:
    """Train a copy of the model on each reward, and add to the diagnosis how long it went well.

    A training has a folder of its own, with its logs; the models that it makes are removed. One that is finished is not
    repeated, and one that was interrupted goes on.

    Args:
        config: with `steps`.
        diagnosis: to add to.
        directory: of the diagnosis.

    Raises:
        UserError: a training cannot begin, or its files have changed since.
        KeyboardInterrupt: a training was interrupted, and is saved.
    """
    rewards = dict(diagnosis.rewards)
    for name, training in config.trainings(directory).items():
        found = summarize(run_once(training, keep_models=False, stop_at_collapse=True))
        verdict = rewards[name].verdict
        verdict = replace(verdict, reasons=(*verdict.reasons, found.summary))
        rewards[name] = replace(rewards[name], verdict=verdict, short_training=found)
    return replace(diagnosis, rewards=rewards, warnings=(*diagnosis.warnings, *_too_few(config)))


def summarize(result: TrainResult) -> ShortTraining:
    """Say what became of a training, from the evaluations in its rows."""
    guard = Guard.of_rows(result.rows)
    evaluations = [
        {"step": row["step"]} | {name: row[f"eval/{name}"] for name in KEPT if f"eval/{name}" in row}
        for row in result.rows
        if "eval/kl" in row
    ]
    return ShortTraining(
        result.last_step, guard.collapse.step if guard.collapse else None, evaluations, summary_of(guard)
    )


def summary_of(guard: Guard) -> str:
    """Say in a sentence when the policy collapsed, or that it did not."""
    last = guard.readings[-1]
    if (collapse := guard.collapse_words()) is not None:
        return f"in a short training {collapse}"
    if guard.evidence.compares_answers:
        now = guard.compared(last, highest_of(guard.readings))
        return f"in a short training the policy has not collapsed by step {last.step}: {now}"
    return (
        f"in a short training the policy has not collapsed by step {last.step}, as far as loops and the like tell: the "
        "start model has a majority answer to too few prompts to compare answers"
    )


def _too_few(config: DiagnoseConfig) -> Sequence[str]:
    """Warn where there are so few prompts that none of them would make a policy collapse."""
    distinct = len({str(prompt.content) for prompt in read_with_options(config, config.data, config.split)})
    if distinct > SAFE_PROMPTS:
        return ()
    return (
        f"the short training had {distinct} different prompts; on {SAFE_PROMPTS} or fewer a policy hardly collapses "
        "(arXiv 2603.08660), so that a late collapse step says little",
    )
