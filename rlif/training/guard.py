"""The guard: finds, without labels, when training on confidence stops helping, and which policy was the best so far.

Internal rewards go on rising after the policy has begun to fall (arXiv 2506.17219), so the reward cannot tell. What can
is the start model. It is asked about held-out prompts before training: its majority answers (self-consistency, arXiv
2203.11171) are right far more often than a single sample is. At every evaluation the guard looks at its score
(`rlif.training.evidence`), and at what shows a degenerate policy:

- `consensus`: the share of completions that give the start model's majority answer. It rises while the policy gets
  better at what the start model knew, falls as soon as the policy drifts, and neither a loop nor an empty answer agrees
  with anything. This is the score wherever most prompts have such an answer.
- `accuracy`, by gold answers, is the score in its place where the run itself learns from gold answers, or is told to go
  by them: what such a run learns may well contradict the start model. Other runs never look at gold answers.
- `base_nll` + `kl`, nats per token: how unlikely the start model finds what the policy says, and how far the policy has
  gone. The first falls while the policy sharpens and rises when it drifts, but late; their sum turns in time. This is
  the score, with the sign turned, where completions state no answers that could be compared; `fallback` says so.
- length, EOS rate, parse rate and repetition, against those of the start model: degenerate completions (loops, empty
  answers) can be likely under any model, so a policy that has come to them is never the best, whatever its score. Only
  one that is right by gold answers may end, repeat or say less than the start model did.

A fall must exceed twice the sampling error of the score. One after which half of the best consensus is lost is a
collapse. The step at which a policy collapses says how far its own rewards carry it, and is what arXiv 2603.08660 calls
the model collapse step: there the first at which the rewards of majority votes agree with those of gold answers in
less than 1%. The guard takes the start model's majority for gold, and half of the best for 1%: runs of tens of steps
get there, and what is left of a policy that still writes numbers is more than 1% for long.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rlif.answers.advice import FEW_ANSWERED, how_to_get_answers
from rlif.answers.extract import AnswerStyle
from rlif.training.evidence import CONSENSUS, DRIFT, GOLD, MIN_COMPARED_PROMPTS, Evidence, choose

Action = Literal["stop", "warn", "off"]
GuardLabels = Literal["auto", "gold", "majority"]

# Samples of each held-out prompt of which the start model's majority is taken.
CONSENSUS_GENERATIONS = 8
# Standard errors that a fall must exceed.
SIGNIFICANT = 2.0
# Share of the highest score so far that is one of completions; with less the policy has collapsed.
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
            if DRIFT.is_in(metrics) and choose(guard.start or metrics).is_in(metrics):  # else the guard was off
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
        score, error = self.evidence.score(metrics)
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
    def evidence(self) -> Evidence:
        """What the score is; that of the start model decides."""
        return choose(self.start)

    def fallback(self, style: AnswerStyle) -> str | None:
        """Say that the score is not the one to be wished for, and why; None where it is.

        Args:
            style: where the answers of completions are looked for.
        """
        sentences = []
        if self.evidence is not GOLD and GOLD.prompts in self.start:
            sentences.append(
                f"the run learns from gold answers, which only {self.start[GOLD.prompts]:.0%} of the held-out prompts "
                f"have (less than {MIN_COMPARED_PROMPTS:.0%}), so the guard goes by the start model and warns at most"
            )
        if self.evidence is DRIFT:
            sentences.append(
                "the guard has a majority answer of the start model to "
                f"{self.start.get(CONSENSUS.prompts, 0.0):.0%} of its prompts only (less than "
                f"{MIN_COMPARED_PROMPTS:.0%}), so it goes by that model's NLL plus KL, which turn later"
            )
            if self.start["parse_rate"] < FEW_ANSWERED:
                sentences.append(how_to_get_answers(style, self.start["eos_rate"]))
        return "; ".join(sentences) or None

    def collapse_words(self) -> str | None:
        """Say at which step the policy collapsed, and by what sign; None if it did not."""
        if self.collapse is None:
            return None
        before = [reading for reading in self.readings if reading.step <= self.collapse.step]
        compares = self.evidence.compares_answers
        sign = self.compared(self.collapse, highest_of(before)) if compares else self.collapse.fault
        return f"the policy has collapsed, its collapse step is {self.collapse.step}: {sign}"

    def compared(self, reading: Reading, best: Reading) -> str:
        """Say the score of a reading beside the best."""
        return self.evidence.compared(reading.score, best.score, best.step)

    def _has_collapsed(self, reading: Reading) -> bool:
        if not self.evidence.compares_answers:
            return reading.fault is not None
        highest = highest_of(self.readings)
        is_real = highest.score - reading.score > SIGNIFICANT * math.hypot(reading.error, highest.error)
        return is_real and reading.score < COLLAPSED * highest.score

    def _fault(self, metrics: Mapping[str, float]) -> str | None:
        if self.evidence is GOLD:
            return None
        found = []
        for limit in LIMITS:
            if limit.only_free_form and self.evidence.compares_answers:
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
        sign = self.compared(reading, self.best) if reading.fault is None else reading.fault
        return f"the policy has probably begun to fall: {sign}. The best so far is that of step {self.best.step}"


def highest_of(readings: Sequence[Reading]) -> Reading:
    """Return the first reading with the highest score, of a degenerate policy or not."""
    return max(readings, key=lambda reading: reading.score)
