"""What the guard made of each evaluation of a run, in words. It follows from the metrics alone, as the guard does."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rlif.training.evidence import CONSENSUS, GOLD
from rlif.training.guard import SIGNIFICANT, Guard, Reading

Verdict = Literal["start", "best", "within chance", "below", "stop"]


@dataclass(frozen=True)
class Decision:
    """What the guard decided after one evaluation."""

    step: int
    verdict: Verdict
    title: str
    """In a few words."""
    words: str
    """Why, with the numbers."""
    warning: str | None
    """What it said when the policy began to fall."""


@dataclass(frozen=True)
class GuardReport:
    """All decisions of a run, and what came of them."""

    decisions: list[Decision]
    best_step: int | None
    """The step whose policy the guard takes for the best; None where every one is degenerate."""
    would_stop: int | None
    """The first step at which its patience was over; None if that never happened."""
    collapse: str | None
    """At which step the policy collapsed, and by what sign; None if it did not."""
    goes_by: str
    """What its score is, in words."""
    patience: int


def guard_report(rows: Sequence[Mapping[str, float]], patience: int) -> GuardReport | None:
    """Show a guard the evaluations of a run once more, and note what it makes of each.

    Args:
        rows: of metrics.jsonl, by step.
        patience: of the run's guard, in evaluations.

    Returns:
        None where no guard has seen an evaluation of the run.

    Raises:
        ValueError: an evaluation lacks what a guard goes by.
    """
    guard, decisions, would_stop = Guard(patience), [], None
    for row in rows:
        metrics = {name.removeprefix("eval/"): value for name, value in row.items() if name.startswith("eval/")}
        if "guard/falling" not in row:  # a run without a guard evaluates too
            continue
        best, step = guard.best, int(row["step"])
        try:
            warning = guard.observe(step, metrics)
        except (KeyError, ArithmeticError) as error:
            raise ValueError(f"the evaluation of step {step} lacks what the guard goes by: {error}") from error
        if would_stop is None and guard.should_stop:
            would_stop = step
        decision = _decision(guard, guard.readings[-1], best, warning)
        if guard.collapse is guard.readings[-1]:
            decision = replace(decision, title=f"{decision.title}; the policy has collapsed")
        decisions.append(decision)
    if not decisions:
        return None
    best_step = guard.best.step if guard.best else None
    return GuardReport(decisions, best_step, would_stop, guard.collapse_words(), _goes_by(guard), patience)


def _goes_by(guard: Guard) -> str:
    evidence, share = guard.evidence, guard.start.get(CONSENSUS.prompts, math.nan)
    if evidence is GOLD:
        return (
            "the share of completions that give the gold answer, which "
            f"{guard.start[GOLD.prompts]:.0%} of the held-out prompts have."
        )
    if evidence is CONSENSUS:
        return (
            "the share of completions that give the start model's majority answer, of which there is one to "
            f"{share:.0%} of the guard's prompts."
        )
    few = "" if math.isnan(share) else f" The start model has a majority answer to {share:.0%} of its prompts only."
    return f"the start model's NLL of what the policy says, plus KL to the start model: lower is better.{few}"


def _decision(guard: Guard, reading: Reading, before: Reading | None, warning: str | None) -> Decision:
    """Say what became of the reading that the guard has just taken in; `before` was the best until then."""
    score = _score(guard, reading)
    if reading.fault is not None:
        words = f"{_sentence(reading.fault)} {score}"
        if guard.falling == 0:
            return Decision(reading.step, "below", "Degenerate", words, warning)
        return _fallen(guard, reading, "Degenerate", words, warning)
    if guard.best is reading:
        if before is None and len(guard.readings) == 1:
            return Decision(reading.step, "start", "The start model", score, warning)
        return Decision(reading.step, "best", "The best so far: its policy is kept", score, warning)
    if before is None or reading.step < before.step:
        return Decision(reading.step, "within chance", "Before the best", score, warning)
    allowed = SIGNIFICANT * math.hypot(reading.error, before.error)
    evidence = guard.evidence
    difference = evidence.size(before.score - reading.score)
    words = (
        f"{score} The best, of step {before.step}, has {evidence.value(before.score)}, {difference} "
        f"{'less' if evidence.lower_is_better else 'more'}; chance allows {evidence.size(allowed)}."
    )
    if guard.falling == 0:
        return Decision(reading.step, "within chance", "Not better, within chance", words, warning)
    return _fallen(guard, reading, "Below the best", words, warning)


def _fallen(guard: Guard, reading: Reading, title: str, words: str, warning: str | None) -> Decision:
    of = f" of {guard.patience}" if guard.falling <= guard.patience else ""
    counted = f"{guard.falling}{of} in a row"
    if guard.should_stop:
        return Decision(reading.step, "stop", f"{title}: patience is over ({counted})", words, warning)
    return Decision(reading.step, "below", f"{title} ({counted})", words, warning)


def _score(guard: Guard, reading: Reading) -> str:
    evidence = guard.evidence
    value = f"{evidence.value(reading.score)}, ± {evidence.size(reading.error)}"
    return _sentence(f"{evidence.title}: {value}")


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
