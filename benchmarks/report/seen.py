"""What a suite says of a paper's claim: in figures, with intervals, and in one word."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scipy import stats

Agreement = Literal["yes", "partly", "no"]


@dataclass(frozen=True)
class Seen:
    """What was seen of a claim."""

    figures: str
    """Words and figures with intervals."""
    agrees: Agreement
    why: str
    """What it is due to, or what is wanting; no full stop at the end."""


def interval(values: Sequence[float]) -> tuple[float, ...]:
    """Return the 95% interval of the mean of a few normal values (Student's t); nothing of a single one."""
    if len(values) < 2:
        return ()
    mean = statistics.fmean(values)
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return mean - half, mean + half


def with_interval(values: Sequence[float], form: str = ".1%") -> str:
    """Write a mean over seeds with its interval."""
    mean = f"{statistics.fmean(values):{form}}"
    bounds = " to ".join(f"{bound:{form}}" for bound in interval(values))
    return f"{mean} ({bounds})" if bounds else f"{mean} (one seed)"


def in_points(values: Sequence[float]) -> str:
    """Write a mean difference of shares over seeds, in points, with its interval."""
    return with_interval([100 * value for value in values], "+.1f") + " points"
