"""Rates and times as a person reads them: two significant digits, whatever their size."""

from __future__ import annotations

import math

# Units of time by the seconds that they have; a hundred of one are written in the next.
UNITS = ((1.0, "s"), (60.0, "min"), (3600.0, "h"), (86400.0, "days"))


def two_digits(value: float) -> str:
    """Return a number with two significant digits, written out: 0.2 as 0.20, 7901 as 7900."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    rounded = float(f"{value:.1e}")  # the exponent of what it is rounded to: 0.996 is 1.0
    return f"{rounded:.{max(0, 1 - math.floor(math.log10(abs(rounded))))}f}"


def duration(seconds: float) -> str:
    """Return a time with its unit: 0.35 s, 42 s, 12 min, 3.5 h."""
    for size, unit in UNITS[:-1]:
        if seconds < 99.5 * size:
            return f"{two_digits(seconds / size)} {unit}"
    size, unit = UNITS[-1]
    return f"{two_digits(seconds / size)} {unit}"
