"""What came of the trials, finding by finding: the paper's claim, what was seen here, and whether they agree.

All paper figures are those of arXiv 2506.17219. "Points" are percentage points of held-out accuracy at temperature 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

import numpy as np

from rlif.lab.plan import RATIOS, start_name
from rlif.metrics.ranks import rank_correlation
from rlif.rewards.registry import INTERNAL

Agreement = Literal["seen", "partly", "not seen"]
TrialResult = dict[str, Any]
"""One trial's result.json."""

# Points of accuracy below which a change counts as none: about two standard errors of one evaluation.
SMALL = 0.03
# Rewards of what was drawn, rather than of the distributions that it was drawn from.
DRAWN = ("trajectory_entropy", "majority_vote")
# Share of the steps that is early.
EARLY = 0.2


@dataclass(frozen=True)
class Finding:
    """One claim of the paper beside what was seen."""

    title: str
    claim: str
    seen: str
    agreement: Agreement


@dataclass(frozen=True)
class Course:
    """Held-out accuracy along one trial, 0 to 1."""

    start: float
    peak: float
    peak_step: int
    guarded: float
    """At the step that the guard takes for the best."""
    last: float

    @property
    def rose(self) -> bool:
        return self.peak - self.start >= SMALL

    @property
    def fell(self) -> bool:
        return self.peak - self.last >= SMALL


def course(result: TrialResult) -> Course:
    """Return the accuracy of a trial at the steps that matter."""
    accuracy = series(result, "eval/accuracy")
    peak_step = max(accuracy, key=lambda step: accuracy[step])
    steps = list(accuracy)
    return Course(
        accuracy[steps[0]], accuracy[peak_step], peak_step, accuracy[result["guard_step"]], accuracy[steps[-1]]
    )


def series(result: TrialResult, metric: str) -> dict[int, float]:
    """A metric by step, where it was measured."""
    return {int(row["step"]): row[metric] for row in result["rows"] if row.get(metric) is not None}


def select(
    results: Sequence[TrialResult], ratio: float | None = None, rewards: Sequence[str] = INTERNAL
) -> list[TrialResult]:
    """Return the trials of a start model (None: of all) on some rewards."""
    return [each for each in results if ratio in (None, each["ratio"]) and each["reward"] in rewards]


def findings(results: Sequence[TrialResult]) -> list[Finding]:
    """Every claim that these trials can speak to."""
    return [rise_and_fall(results), same_direction(results), instruct(results), mixes(results), confidence(results)]


def rise_and_fall(results: Sequence[TrialResult]) -> Finding:
    """On a base model."""
    lines, rose, fell = [], [], []
    for reward in INTERNAL:
        courses = [course(each) for each in select(results, 0.0, [reward])]
        rose.append(all(each.rose for each in courses))
        fell.append(all(each.fell for each in courses))
        what = f"{points(courses, 'start')} at the start, {points(courses, 'peak')} at best (step {steps(courses)})"
        lines.append(f"`{reward}`: {what}, {points(courses, 'last')} at the end")
    both = [up and down for up, down in zip(rose, fell, strict=True)]
    agreement: Agreement = "seen" if all(both) else "partly" if any(both) else "not seen"
    still = [reward for reward, down in zip(INTERNAL, fell, strict=True) if not down]
    by_tokens = [reward for reward in still if reward in DRAWN]
    why = f" {_names(still)} did not fall within these runs, not with every seed." if still else ""
    if by_tokens and not set(INTERNAL) - set(DRAWN) & set(still):
        right = fmean(course(each).last for each in select(results, 0.0, by_tokens))
        why += (
            " Those depend on the tokens that were drawn, or on answers that agree: they sharpen the policy towards "
            f"its own likeliest solutions, and here these are mostly right ({100 * right:.0f}% at the end). The "
            "rewards that are functions of the distributions alone, and so act on a token only through the ones before "
            "it, fell."
        )
    return Finding(
        "Rise, then fall",
        "Qwen2.5-3B on MATH500: .524 at step 0, .583 at step 20, .454 at step 80; GSM8K .649, .778, .670.",
        "; ".join(lines) + "." + why,
        agreement,
    )


def same_direction(results: Sequence[TrialResult]) -> Finding:
    """Early on, all internal rewards move all signals alike."""
    lines, alike = [], []
    for reward in INTERNAL:
        changes = []
        for result in select(results, 0.0, [reward]):
            measured = [
                series(result, f"eval/{name}") for name in ("entropy", "self_certainty", "base_nll", "accuracy")
            ]
            step = early_step(measured[0])
            changes.append([each[step] - each[0] for each in measured])
        entropy, certainty, nll, accuracy = np.mean(changes, axis=0)
        alike.append(entropy < 0 < certainty and nll < 0 < accuracy)
        lines.append(
            f"`{reward}`: entropy {entropy:+.3f}, self-certainty {certainty:+.3f}, start model's NLL {nll:+.3f} nats a "
            f"token, accuracy {100 * accuracy:+.1f} points"
        )
    return Finding(
        "One direction early",
        "Self-certainty, token entropy and trajectory entropy are partly equivalent: early in training each of them "
        "moves the others the way it moves itself.",
        f"Changes from step 0 to step {step}: " + "; ".join(lines) + ".",
        "seen" if all(alike) else "partly" if any(alike) else "not seen",
    )


def instruct(results: Sequence[TrialResult]) -> Finding:
    """Nothing for a model that is sure already."""
    lines, nothing = [], []
    for reward in INTERNAL:
        courses = [course(each) for each in select(results, 1.0, [reward])]
        if not courses:
            continue
        nothing.append(fmean(each.peak - each.start for each in courses) < SMALL)
        lines.append(f"`{reward}`: {points(courses, 'start')}, {points(courses, 'peak')}, {points(courses, 'last')}")
    labelled = [course(each) for each in select(results, 1.0, ["verifiable"])]
    room = (
        f" Right answers took it from {points(labelled, 'start')} to {points(labelled, 'peak')}: there was "
        f"{'something' if fmean(each.peak - each.start for each in labelled) >= SMALL else 'hardly anything'} to learn."
        if labelled
        else ""
    )
    return Finding(
        "Nothing for an instruction-tuned model",
        "Qwen2.5-3B-Instruct falls from .636 to .496.",
        "At the start, at best, at the end: " + "; ".join(lines) + "." + room,
        "seen" if all(nothing) else "partly" if any(nothing) else "not seen",
    )


def mixes(results: Sequence[TrialResult], reward: str = "self_certainty") -> Finding:
    """The less entropy there is at the start, the less is to gain."""
    entropy, gain, lines = [], [], []
    for ratio in RATIOS:
        trials = select(results, ratio, [reward])
        if trials:
            courses = [course(each) for each in trials]
            entropy.append(fmean(series(each, "eval/entropy")[0] for each in trials))
            gain.append(fmean(each.peak - each.start for each in courses))
            lines.append(f"{start_name(ratio)}: {entropy[-1]:.3f} nats a token, {100 * gain[-1]:+.1f} points")
    correlation = rank_correlation(entropy, gain)
    return Finding(
        "Gain shrinks with initial entropy",
        "With 0, .1, .2 and 1 of the instruct model's weights the initial entropy is .81, .71, .44 and .38; RLIF helps "
        "at 0 to .1, hardly from .2 on.",
        f"`{reward}`, initial entropy and gain at best: {'; '.join(lines)} (rank correlation {correlation:.2f}).",
        "seen" if correlation >= 0.9 else "partly" if correlation >= 0.5 else "not seen",
    )


def confidence(results: Sequence[TrialResult], reward: str = "self_certainty") -> Finding:
    """Find what the early gain consists of."""
    trials = select(results, 0.0, [reward])
    mean = {
        key: {name: fmean(each[key][name] for each in trials) for name in ("start", "guarded", "last")}
        for key in ("accuracy", "parsed", "probability", "doubt")
    }
    gap = {name: mean["probability"][name] - mean["accuracy"][name] for name in mean["accuracy"]}
    formatted = mean["parsed"]["guarded"] - mean["parsed"]["start"]
    less_doubt = mean["doubt"]["guarded"] - mean["doubt"]["start"]
    more_sure = gap["last"] > max(0.0, gap["guarded"]) and less_doubt < 0
    return Finding(
        "Early gains are format and confidence",
        "The first gains are mostly format and confidence: underconfidence turns into overconfidence, and words of "
        "doubt ('wait', 'let me check') become rarer.",
        f"`{reward}` on the base, at the start, at the guard's choice, at the end: answers stated "
        f"{_three(mean['parsed'])}, solutions with a mark of doubt {_three(mean['doubt'])}, mean token probability "
        f"{_three(mean['probability'])} beside accuracy {_three(mean['accuracy'])}. Format gained "
        f"{100 * formatted:+.1f} points, since the base model states an answer in {100 * mean['parsed']['start']:.0f}% "
        f"of its solutions to begin with; marks of doubt changed by {100 * less_doubt:+.0f} points. Token probability "
        f"exceeds accuracy by {100 * gap['start']:.0f} points at the start and {100 * gap['last']:.0f} at the end.",
        "seen" if more_sure and formatted >= SMALL else "partly" if more_sure else "not seen",
    )


def early_step(values: dict[int, float]) -> int:
    """The first evaluated step that is not before the early share of the run."""
    return min(step for step in values if step >= EARLY * max(values))


def points(courses: Sequence[Course], name: str) -> str:
    """Return the mean over seeds, as a percentage."""
    return f"{100 * fmean(getattr(each, name) for each in courses):.1f}%"


def steps(courses: Sequence[Course]) -> str:
    """Return the peaks' steps, as a range."""
    found = sorted({each.peak_step for each in courses})
    return str(found[0]) if len(found) == 1 else f"{found[0]} to {found[-1]}"


def _names(rewards: Sequence[str]) -> str:
    return " and ".join(f"`{each}`" for each in rewards)


def _three(values: dict[str, float]) -> str:
    return ", ".join(f"{100 * values[name]:.1f}%" for name in ("start", "guarded", "last"))
