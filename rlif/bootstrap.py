"""Estimates with intervals, from resampling the prompts: completions of one prompt are not independent, prompts are."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

# Ends of the 95% percentile interval.
INTERVAL = (2.5, 97.5)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A number that was measured on some prompts. NaN where they leave it undefined."""

    value: float
    low: float
    """Lower end of the 95% bootstrap interval."""
    high: float
    """Upper end."""
    resamples: Floats = field(repr=False, compare=False)
    """(resamples,) the same number on each resample of the prompts; row i is the same resample in every estimate."""


class Bootstrap:
    """Resamples of P prompts, drawn once, so that several estimates can be looked at on the same resample."""

    def __init__(self, num_prompts: int, *, resamples: int, seed: int) -> None:
        """Draw how often each prompt occurs in each resample.

        Args:
            num_prompts: P.
            resamples: how many; 0 gives estimates whose interval is the value alone.
            seed: alone decides the draw.
        """
        generator = np.random.default_rng(seed)
        shares = np.full(num_prompts, 1 / num_prompts)
        self._counts = generator.multinomial(num_prompts, shares, size=resamples).astype(np.float64)

    def ratio(self, numerators: Floats, denominators: Floats) -> Estimate:
        """A ratio of sums over the prompts, from (P,) of each. A prompt without a say has 0 in both."""
        with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN that says so
            return _estimate(
                numerators.sum() / denominators.sum(), (self._counts @ numerators) / (self._counts @ denominators)
            )

    def mean(self, values: Floats) -> Estimate:
        """The mean over the prompts, of (P,), that have a value, the others being NaN."""
        known = ~np.isnan(values)
        return self.ratio(np.where(known, values, 0.0), known.astype(np.float64))

    def correlation(self, x: Floats, y: Floats) -> Estimate:
        """Pearson's correlation within prompts, of (P, G) values whose prompts' means have been taken off."""
        sums = [(one * other).sum(axis=1) for one, other in ((x, y), (x, x), (y, y))]
        with np.errstate(invalid="ignore"):
            xy, xx, yy = (self._counts @ each for each in sums)
            return _estimate(sums[0].sum() / np.sqrt(sums[1].sum() * sums[2].sum()), xy / np.sqrt(xx * yy))


def _estimate(value: np.float64, resamples: Floats) -> Estimate:
    known = resamples[~np.isnan(resamples)]
    low, high = np.percentile(known, INTERVAL) if len(known) and not np.isnan(value) else (value, value)
    return Estimate(float(value), float(low), float(high), resamples)
