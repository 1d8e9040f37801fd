"""What a learned reward, and the confidence that it was learned from, have to do with length, on held-out prompts.

Longer completions of a prompt may be better or worse ones, so that a correlation with length is no fault by itself:
beside it stands the correlation among completions that are equally right, where a reward of quality alone has none
but by chance.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from rlif.answers.math_verification import RUN_SECONDS, limited_cost
from rlif.errors import UserError
from rlif.files.json_values import without_nan
from rlif.files.jsonl import Row
from rlif.metrics.bootstrap import Bootstrap, Estimate, Floats
from rlif.self_feedback.length_prompts import DIRECTIONS, Instruction, draw_instruction, length_of
from rlif.self_feedback.options import LengthUnit
from rlif.self_feedback.rank import is_correct

Bools = NDArray[np.bool_]
# Two completions are matched in length if they differ by at most this share of the longer one.
MATCHED = 0.05


@dataclass(frozen=True)
class ScoreReport:
    """What one score has to do with length, and with right answers."""

    correlation: Estimate
    """With length: Pearson's, over all completions with their prompts' means taken off."""
    correlation_equally_right: Estimate
    """The same with the means taken off that right completions of a prompt have, and wrong ones."""
    accuracy: dict[str, Estimate]
    """Of a right and a wrong completion of a prompt, how often the right one scores higher: of all pairs, of those
    `matched` in length, and where the right one is `shorter` or `longer`. Equal scores count half."""


@dataclass(frozen=True)
class LengthReport:
    """What there is to say of a learned reward on held-out prompts."""

    objective: str
    unit: str
    num_prompts: int
    num_generations: int
    pairs: dict[str, int]
    """Of a right and a wrong completion, of each kind."""
    right: Estimate
    """Correlation of being right with length: that of a perfect reward."""
    scores: dict[str, ScoreReport]
    """Of the `confidence` that ranked and of the learned `reward`."""
    length_accuracy: dict[str, Estimate]
    """How often a completion has the higher reward under an instruction that it keeps than under one that it breaks: of
    instructions of both directions, and of each, n or `less` and n or `more`."""

    def to_json(self) -> dict[str, Any]:
        """As JSON holds it: null for NaN."""
        found: dict[str, Any] = without_nan(dataclasses.asdict(self))
        return found


@dataclass(frozen=True)
class HeldOut:
    """Completions of held-out prompts, and what there is to know of them; arrays are (prompts, generations)."""

    lengths: Floats
    confidence: Floats
    right: Floats
    """1, 0, or NaN where there is no gold answer."""
    first: Bools
    """Whether no completion before it, of the same prompt, is the same."""
    instructions: list[tuple[Instruction, Instruction]]
    """For each completion, prompt by prompt: one that it keeps, one that it breaks, of the same direction."""


@limited_cost(RUN_SECONDS)
def held_out(rows: Sequence[Row], *, unit: LengthUnit, confidence: str, seed: int) -> HeldOut:
    """Look at samples of held-out prompts, each with as many completions.

    Args:
        rows: of samples.jsonl.
        unit: of lengths.
        confidence: the score that ranked.
        seed: of the instructions.

    Raises:
        UserError: prompts have more completions, or fewer, than others.
    """
    counts = {len(row["completions"]) for row in rows}
    if len(counts) > 1:
        raise UserError(
            f"output_dir: the held-out samples have from {min(counts)} to {max(counts)} completions of a prompt, "
            "expected as many of each"
        )
    draw = random.Random(f"held-out length instructions {seed}")
    lengths, right, first, instructions = [], [], [], []
    for row in rows:
        ids = [each["ids"] for each in row["completions"]]
        first.append([ids.index(each) == place for place, each in enumerate(ids)])
        lengths.append([length_of(each["text"], each["ids"], unit) for each in row["completions"]])
        verdicts = [is_correct(each, row["answer"]) for each in row["completions"]]
        right.append([np.nan if verdict is None else float(verdict) for verdict in verdicts])
        for length in lengths[-1]:
            # Something shorter than 2 breaks no "or less", and keeps no "or more" of a lower n.
            direction = draw.choice(DIRECTIONS)
            kept, broken = (draw_instruction(max(length, 2), direction, kept=kept, draw=draw) for kept in (True, False))
            instructions.append((kept, broken))
    scores = [[each["confidence"][confidence] for each in row["completions"]] for row in rows]
    return HeldOut(np.array(lengths, float), np.array(scores, float), np.array(right), np.array(first), instructions)


def measure_length(
    samples: HeldOut, rewards: Floats, *, objective: str, unit: str, resamples: int = 1000, seed: int = 0
) -> LengthReport:
    """Measure what rewards have to do with length.

    Args:
        samples: of P prompts with G completions each.
        rewards: (P, G, 3): of each completion under its prompt, under an instruction that it keeps, and under one that
            it breaks.
        objective: that was learned.
        unit: of lengths.
        resamples: of the prompts, for the intervals.
        seed: of these.
    """
    bootstrap = Bootstrap(len(samples.lengths), resamples=resamples, seed=seed)
    own, kept, broken = np.moveaxis(rewards, -1, 0)
    obeys = np.where(kept == broken, 0.5, (kept > broken).astype(np.float64))
    less = np.array([kept.direction == "less" for kept, _ in samples.instructions]).reshape(own.shape)
    kinds = pair_kinds(samples)
    of_directions = {"both": np.ones_like(less), "less": less, "more": ~less}
    return LengthReport(
        objective=objective,
        unit=unit,
        num_prompts=len(own),
        num_generations=own.shape[1],
        pairs={name: int(kind.sum()) for name, kind in kinds.items()},
        right=correlation(samples.right, samples.lengths, np.zeros_like(samples.lengths), bootstrap),
        scores={
            name: score_report(score, samples, kinds, bootstrap)
            for name, score in (("confidence", samples.confidence), ("reward", own))
        },
        length_accuracy={
            name: bootstrap.ratio((obeys * chosen).sum(axis=1), chosen.sum(axis=1).astype(np.float64)).estimate
            for name, chosen in of_directions.items()
        },
    )


def score_report(score: Floats, samples: HeldOut, kinds: dict[str, Bools], bootstrap: Bootstrap) -> ScoreReport:
    """Measure one score, (P, G)."""
    difference = score[:, :, None] - score[:, None, :]
    told = np.where(difference == 0, 0.5, (difference > 0).astype(np.float64))
    return ScoreReport(
        correlation=correlation(score, samples.lengths, np.zeros_like(score), bootstrap),
        correlation_equally_right=correlation(score, samples.lengths, samples.right, bootstrap),
        accuracy={
            name: bootstrap.ratio((told * kind).sum(axis=(1, 2)), kind.sum(axis=(1, 2)).astype(np.float64)).estimate
            for name, kind in kinds.items()
        },
    )


def pair_kinds(samples: HeldOut) -> dict[str, Bools]:
    """Say which pairs of completions, (P, G, G), are of a right one and a wrong one, in this order, and of which kind.

    Identical completions make no further pairs.
    """
    pairs = (samples.right[:, :, None] == 1) & (samples.right[:, None, :] == 0)
    pairs &= samples.first[:, :, None] & samples.first[:, None, :]
    one, other = samples.lengths[:, :, None], samples.lengths[:, None, :]
    matched = np.abs(one - other) <= MATCHED * np.maximum(one, other)
    return {
        "all": pairs,
        "matched": pairs & matched,
        "shorter": pairs & ~matched & (one < other),
        "longer": pairs & ~matched & (one > other),
    }


def correlation(x: Floats, y: Floats, groups: Floats, bootstrap: Bootstrap) -> Estimate:
    """Correlate two (P, G) scores with the means of their prompts, or of smaller groups in these, taken off.

    Args:
        x: one; NaN where it is unknown.
        y: the other.
        groups: (P, G) numbers that tell the groups of a prompt apart; NaN: in none.
        bootstrap: of the prompts.
    """
    known = ~(np.isnan(x) | np.isnan(groups))
    centred = [np.zeros_like(x), np.zeros_like(y)]
    for group in np.unique(groups[known]):
        inside = known & (groups == group)
        count = np.maximum(inside.sum(axis=1, keepdims=True), 1)
        for values, off in zip((x, y), centred, strict=True):
            mean = np.where(inside, values, 0.0).sum(axis=1, keepdims=True) / count
            off[inside] = (values - mean)[inside]
    return bootstrap.correlation(centred[0], centred[1]).estimate


def length_table(report: LengthReport, confidence: str) -> Table:
    """Each score's correlation with length and its accuracy on pairs of each kind, and the length accuracy below."""

    def cell(estimate: Estimate, form: str) -> str:
        if math.isnan(estimate.value):
            return "-"
        return f"{estimate.value:{form}} ({estimate.low:{form}} to {estimate.high:{form}})"

    obeyed = report.length_accuracy
    table = Table(
        title=f"Reward and length in {report.unit}, on held-out prompts",
        caption=(
            f"{report.num_prompts * report.num_generations} completions of the start model, intervals over prompts;\n"
            f"the higher reward where an instruction is kept: {cell(obeyed['both'], '.1%')}, of n or less "
            f"{cell(obeyed['less'], '.1%')}, of n or more {cell(obeyed['more'], '.1%')}"
        ),
    )
    table.add_column("")
    for heading in (confidence.replace("_", " "), "learned reward"):
        table.add_column(heading, justify="right")
    scores = [report.scores[name] for name in ("confidence", "reward")]
    table.add_row("correlation with length", *(cell(each.correlation, ".2f") for each in scores))
    equally = [cell(each.correlation_equally_right, ".2f") for each in scores]
    table.add_row("… among equally right ones", *equally)
    kinds = {
        "all": "right one preferred to a wrong one",
        "matched": "… matched in length",
        "shorter": "… where the right one is shorter",
        "longer": "… where the right one is longer",
    }
    for kind, heading in kinds.items():
        table.add_row(f"{heading} ({report.pairs[kind]} pairs)", *(cell(each.accuracy[kind], ".1%") for each in scores))
    table.add_row("a perfect reward's correlation with length", "", cell(report.right, ".2f"))
    return table
