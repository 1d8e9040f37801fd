"""What the guard goes by: a number of each evaluation that is higher for a better policy, with its error and its words.

`choose` takes the best that an evaluation has:

- `GOLD`, the share of completions that are right, in a run that learns from gold answers itself or is told to go by
  them. No other number can follow a policy beyond what the start model knew.
- `CONSENSUS`, the share that gives the start model's majority answer (self-consistency, arXiv 2203.11171).
- `DRIFT`, nats per token: how unlikely the start model finds what the policy says, and how far the policy has gone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

# Share of the held-out prompts that must have an answer, for completions to be compared with those.
MIN_COMPARED_PROMPTS = 0.5


@dataclass(frozen=True)
class Share:
    """The share of completions that agree with answers, over the prompts that have one."""

    metric: str
    num_compared: str
    """The metric that counts the completions it is a share of."""
    prompts: str
    """The metric that says to which share of the prompts there is an answer."""
    agrees: str
    """What a completion does that agrees, in words."""
    compares_answers: ClassVar[bool] = True
    lower_is_better: ClassVar[bool] = False

    @property
    def title(self) -> str:
        """What is counted."""
        return f"completions that {self.agrees}"

    def is_in(self, metrics: Mapping[str, float]) -> bool:
        """Whether an evaluation has it."""
        return self.metric in metrics and self.num_compared in metrics

    def score(self, metrics: Mapping[str, float]) -> tuple[float, float]:
        """Return the share and its standard error."""
        share, count = metrics[self.metric], metrics[self.num_compared]
        # Smoothed, so that a share of exactly 0 or 1 still has an error.
        smoothed = (share * count + 1) / (count + 2)
        return share, math.sqrt(smoothed * (1 - smoothed) / count)

    def value(self, score: float) -> str:
        """Return the score in words."""
        return f"{score:.1%}"

    def size(self, difference: float) -> str:
        """Return a difference of scores in words."""
        return f"{100 * difference:.1f} points"

    def compared(self, score: float, best: float, best_step: int) -> str:
        """Say a score beside the best."""
        return f"{score:.0%} of completions {self.agrees}, {best:.0%} did at step {best_step}"


@dataclass(frozen=True)
class Drift:
    """How unlikely the start model finds what the policy says, plus the KL to it, with the sign turned."""

    compares_answers: ClassVar[bool] = False
    lower_is_better: ClassVar[bool] = True
    title: ClassVar[str] = "the start model's NLL plus KL"

    def is_in(self, metrics: Mapping[str, float]) -> bool:
        """Whether an evaluation has it."""
        return "base_nll_error" in metrics

    def score(self, metrics: Mapping[str, float]) -> tuple[float, float]:
        """Return minus nats per token, and the standard error."""
        return -(metrics["base_nll"] + metrics["kl"]), metrics["base_nll_error"]

    def value(self, score: float) -> str:
        """Return the score in words."""
        return f"{-score:.3f} nats a token"

    def size(self, difference: float) -> str:
        """Return a difference of scores in words."""
        return f"{difference:.3f} nats"

    def compared(self, score: float, best: float, best_step: int) -> str:
        """Say a score beside the best."""
        return f"{self.title} is {-score:.3g} nats a token, {-best:.3g} at step {best_step}"


Evidence = Share | Drift

GOLD = Share("accuracy", "num_gold", "gold_prompts", "give the gold answer")
CONSENSUS = Share("consensus", "num_compared", "consensus_prompts", "give the start model's majority answer")
DRIFT = Drift()


def choose(metrics: Mapping[str, float]) -> Evidence:
    """Return what the guard of a run goes by, from the metrics of the start model."""
    shares = (GOLD, CONSENSUS)
    return next((each for each in shares if metrics.get(each.prompts, 0.0) >= MIN_COMPARED_PROMPTS), DRIFT)
