"""The guard: finds, without labels, when training on confidence stops helping, and which policy was the best so far.

Internal rewards go on rising after the policy has begun to fall (arXiv 2506.17219), so the reward cannot tell. What can
is the start model. It is asked about held-out prompts before training: its majority answers (self-consistency, arXiv
2203.11171) are right far more often than a single sample is. At every evaluation the guard looks at

- `consensus`: the share of completions that give the start model's majority answer. It rises while the policy gets
  better at what the start model knew, falls as soon as the policy drifts, and neither a loop nor an empty answer agrees
  with anything. This is the score wherever most prompts have such an answer.
- `base_nll` + `kl`, nats per token: how unlikely the start model finds what the policy says, and how far the policy has
  gone. The first falls while the policy sharpens and rises when it drifts, but late; their sum turns in time. This is
  the score, with the sign turned, where completions state no answers that could be compared; `fallback` says so.
- length, EOS rate, parse rate and repetition, against those of the start model: degenerate completions (loops, empty
  answers) can be likely under any model, so a policy that has come to them is never the best, whatever its score.

A fall must exceed twice the sampling error of the score. One after which half of the best consensus is lost is a
collapse. The step at which a policy collapses says how far its own rewards carry it, and is what arXiv 2603.08660 calls
the model collapse step: there the first at which the rewards of majority votes agree with those of gold answers in
less than 1%. The guard takes the start model's majority for gold, and half of the best for 1%: runs of tens of steps
get there, and what is left of a policy that still writes numbers is more than 1% for long.

Gold answers are never looked at.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rlif.answers.advice import FEW_ANSWERED, how_to_get_answers
from rlif.answers.extract import AnswerStyle

Action = Literal["stop", "warn", "off"]

# Samples of each held-out prompt of which the start model's majority is taken.
CONSENSUS_GENERATIONS = 8
# Share of the held-out prompts on which the start model must have a majority answer for the score to be the consensus.
MIN_CONSENSUS_PROMPTS = 0.5
# Standard errors that a fall must exceed.
SIGNIFICANT = 2.0
# Share of the highest consensus so far; with less the policy has collapsed.
COLLAPSED = 0.5


@dataclass(frozen=True)
class Limit:
    """How far a signal may move from the start model's before the policy counts as degenerate."""

    signal: str
    furthest_down: float = math.inf
    furthest_up: float = math.inf
    times: float = math.inf
    """Factor by which it may shrink or grow, of a signal that is no share."""
    meaning: str = ""
    only_free_form: bool = False
    """Whether it counts only where answers cannot be compared. Where they can, a base model that learns to come to the
    point may well halve its length, and giving up would show in the answers."""


LIMITS = (
    Limit("eos_rate", furthest_down=0.2, meaning="completions no longer end"),
    Limit("parse_rate", furthest_down=0.2, meaning="completions no longer state an answer"),
    Limit("repetition", furthest_up=0.2, meaning="completions repeat themselves"),
    Limit("completion_length", times=2.0, meaning="completions have another length", only_free_form=True),
)


@dataclass(frozen=True)
class Reading:
    """What the guard makes of one evaluation."""

    step: int
    score: float
    """Higher is better; comparable within a run only."""
    error: float
    """Standard error of the score."""
    fault: str | None
    """Why the policy counts as degenerate; None if it does not."""


@dataclass
class Guard:
    """Judges the evaluations of one run, in their order. What it says follows from them alone.

    Attributes:
        patience: evaluations in a row below the best after which the run should stop.
        readings: those so far; the first is the start model's.
        best: the first reading with the highest score, of those without a fault.
        falling: evaluations in a row that were significantly below the best, or degenerate.
        collapse: the first reading of a policy that had collapsed; None until there is one. Its step is the collapse
            step.
    """

    patience: int
    readings: list[Reading] = field(default_factory=list)
    best: Reading | None = None
    falling: int = 0
    collapse: Reading | None = None
    start: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of_rows(cls, rows: Iterable[Mapping[str, float]], patience: int = 1) -> Guard:
        """Return a guard that has seen the evaluations in rows of metrics.jsonl."""
        guard = cls(patience)
        for row in rows:
            metrics = {name.removeprefix("eval/"): value for name, value in row.items() if name.startswith("eval/")}
            if "base_nll_error" in metrics:
                guard.observe(int(row["step"]), metrics)
        return guard

    @property
    def should_stop(self) -> bool:
        """Whether patience is over."""
        return self.falling >= self.patience

    def observe(self, step: int, metrics: Mapping[str, float]) -> str | None:
        """Take in an evaluation.

        Args:
            step: of training; 0 is the start model.
            metrics: those of `rlif.training.validation.evaluate`.

        Returns:
            A warning in plain words when the fall begins; None otherwise.
        """
        self.start = self.start or dict(metrics)
        score, error = self._score(metrics)
        reading = Reading(step, score, error, self._fault(metrics))
        self.readings.append(reading)
        if self.collapse is None and self._has_collapsed(reading):
            self.collapse = reading
        if reading.fault is None and (self.best is None or score > self.best.score):
            self.best, self.falling = reading, 0
            return None
        if self.best is None or step < self.best.step:  # of a run that was interrupted after its best and goes up again
            return None
        fall = self.best.score - score
        if reading.fault is None and fall <= SIGNIFICANT * math.hypot(error, self.best.error):
            self.falling = 0
            return None
        self.falling += 1
        return self._warning(reading) if self.falling == 1 else None

    @property
    def uses_consensus(self) -> bool:
        """Whether the score is the agreement with the start model's majority answers."""
        return self.start.get("consensus_prompts", 0.0) >= MIN_CONSENSUS_PROMPTS

    def fallback(self, style: AnswerStyle) -> str | None:
        """Say that the score is not the consensus, and why; None where it is.

        Args:
            style: where the answers of completions are looked for.
        """
        if self.uses_consensus:
            return None
        sentence = (
            f"the guard has a majority answer of the start model to {self.start.get('consensus_prompts', 0.0):.0%} of "
            f"its prompts only (less than {MIN_CONSENSUS_PROMPTS:.0%}), so it goes by that model's NLL plus KL, which "
            "turn later"
        )
        if self.start["parse_rate"] >= FEW_ANSWERED:
            return sentence
        return f"{sentence}; {how_to_get_answers(style, self.start['eos_rate'])}"

    def collapse_words(self) -> str | None:
        """Say at which step the policy collapsed, and by what sign; None if it did not."""
        if self.collapse is None:
            return None
        before = [reading for reading in self.readings if reading.step <= self.collapse.step]
        sign = agreeing(self.collapse, highest_of(before)) if self.uses_consensus else self.collapse.fault
        return f"the policy has collapsed, its collapse step is {self.collapse.step}: {sign}"

    def _has_collapsed(self, reading: Reading) -> bool:
        if not self.uses_consensus:
            return reading.fault is not None
        highest = highest_of(self.readings)
        is_real = highest.score - reading.score > SIGNIFICANT * math.hypot(reading.error, highest.error)
        return is_real and reading.score < COLLAPSED * highest.score

    def _score(self, metrics: Mapping[str, float]) -> tuple[float, float]:
        if self.uses_consensus:
            share = metrics["consensus"]
            # Smoothed, so that a share of exactly 0 or 1 still has an error.
            count = metrics["num_compared"]
            smoothed = (share * count + 1) / (count + 2)
            return share, math.sqrt(smoothed * (1 - smoothed) / count)
        return -(metrics["base_nll"] + metrics["kl"]), metrics["base_nll_error"]

    def _fault(self, metrics: Mapping[str, float]) -> str | None:
        found = []
        for limit in LIMITS:
            if limit.only_free_form and self.uses_consensus:
                continue
            now, before = metrics[limit.signal], self.start[limit.signal]
            times = now / before if before > 0 else 1.0
            if (
                before - now > limit.furthest_down
                or now - before > limit.furthest_up
                or not 1 / limit.times <= times <= limit.times
            ):
                found.append(f"{limit.meaning} ({limit.signal} {now:.3g}, at the start {before:.3g})")
        return ", ".join(found) or None

    def _warning(self, reading: Reading) -> str:
        assert self.best is not None
        if reading.fault is not None:
            sign = reading.fault
        elif self.uses_consensus:
            sign = agreeing(reading, self.best)
        else:
            sign = (
                f"the start model's NLL plus KL is {-reading.score:.3g} nats a token, {-self.best.score:.3g} at step "
                f"{self.best.step}"
            )
        return f"the policy has probably begun to fall: {sign}. The best so far is that of step {self.best.step}"


def highest_of(readings: Sequence[Reading]) -> Reading:
    """Return the first reading with the highest score, of a degenerate policy or not."""
    return max(readings, key=lambda reading: reading.score)


def agreeing(reading: Reading, best: Reading) -> str:
    """Say how many completions agree with the start model, beside how many did at best."""
    return (
        f"{reading.score:.0%} of completions give the start model's majority answer, {best.score:.0%} did at step "
        f"{best.step}"
    )
