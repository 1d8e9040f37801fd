"""Shares with their intervals, as lines of one scale from 0 to 100%, in the colours of the page."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape

from rlif.printable import one_line

# Standard errors on either side of a mean that hold 95% of a normal distribution.
Z = 1.96
WIDTH, HEIGHT, MARGIN = 200, 18, 6


@dataclass(frozen=True)
class Interval:
    """A share, and where 95% of the samples of prompts would put it."""

    name: str
    value: float
    low: float
    high: float
    """Both NaN of a single prompt."""
    mark: float | None
    """Another share that it is to be compared with."""

    @classmethod
    def of(cls, name: str, value: float, standard_error: float, *, prompts: int, mark: float | None = None) -> Interval:
        """Put 1.96 standard errors on both sides of a share, none beyond 0 or 1.

        Of 0 and 1, which have no standard error, the interval is Wilson's, as if each prompt was right or wrong.

        Raises:
            ValueError: the share is none.
        """
        if not 0 <= value <= 1 or standard_error < 0:
            raise ValueError(f"got {name} {value!r} ± {standard_error!r}, expected a share")
        if math.isnan(standard_error):
            return cls(name, value, math.nan, math.nan, mark)
        half = Z * standard_error if 0 < value < 1 else Z**2 / (prompts + Z**2)
        return cls(name, value, max(0.0, value - half), min(1.0, value + half), mark)

    @property
    def words(self) -> str:
        """The share with its interval."""
        return f"{self.value:.1%}" + (f" ({self.range})" if self.range else "")

    @property
    def range(self) -> str:
        """The ends of the interval; empty where there is none."""
        return "" if math.isnan(self.low) else f"{100 * self.low:.1f} to {self.high:.1%}"

    def svg(self) -> str:
        """Draw a dot at the share, a line along the interval, and a dotted one at the mark, as wide as there is room.

        The dot is a line of no length with a round end, which stays round where the drawing is stretched.
        """
        middle = HEIGHT / 2
        parts = [
            f'<svg class="strip" viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" '
            f'aria-label="{escape(one_line(self.name))}: {self.words}"><title>{self.words}</title>',
            f'<path class="scale" d="M{_x(0)} {middle}H{_x(1)}"/>',
        ]
        if self.mark is not None:
            parts.append(f'<path class="mark" d="M{_x(self.mark)} 0V{HEIGHT}"/>')
        if not math.isnan(self.low):
            parts.append(f'<path class="range" d="M{_x(self.low)} {middle}H{_x(self.high)}"/>')
        parts.append(f'<path class="dot" d="M{_x(self.value)} {middle}h0"/></svg>')
        return "".join(parts)


def _x(share: float) -> float:
    return round(MARGIN + share * (WIDTH - 2 * MARGIN), 1)
