"""Estimates with intervals, from resampling the prompts: completions of one prompt are not independent, prompts are."""

from __future__ import annotations

import math
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Resampled:
    """A number that was measured on some prompts, and on each resample of them."""

    value: float
    resamples: Floats
    """(resamples,); row i is the same resample in all numbers of one `Bootstrap`. NaN where it is undefined."""

    @property
    def estimate(self) -> Estimate:
        """The number with its percentile interval."""
        known = self.resamples[~np.isnan(self.resamples)]
        if math.isnan(self.value) or not len(known):
            return Estimate(self.value, self.value, self.value)
        low, high = np.percentile(known, INTERVAL)
        return Estimate(self.value, float(low), float(high))


class Bootstrap:
    """Resamples of P prompts, drawn once, so that several estimates can be looked at on the same resample."""

    def __init__(self, num_prompts: int, *, resamples: int, seed: int) -> None:
        """Draw how often each prompt occurs in each resample.

        Args:
            num_prompts: P.
            resamples: how many; 0 gives intervals of the value alone.
            seed: alone decides the draw.
        """
        generator = np.random.default_rng(seed)
        shares = np.full(num_prompts, 1 / num_prompts)
        self._counts = generator.multinomial(num_prompts, shares, size=resamples).astype(np.float64)

    @property
    def resamples(self) -> int:
        """How many there are."""
        return len(self._counts)

    def sums(self, values: Floats) -> Floats:
        """Sum (P, ...) values over the prompts of each resample: (resamples, ...)."""
        return np.tensordot(self._counts, values, axes=1)

    def ratio(self, numerators: Floats, denominators: Floats) -> Resampled:
        """Return a ratio of sums over the prompts, from (P,) of each. A prompt without a say has 0 in both."""
        with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN that says so
            value = float(numerators.sum() / denominators.sum())
            return Resampled(value, (self._counts @ numerators) / (self._counts @ denominators))

    def mean(self, values: Floats) -> Resampled:
        """The mean over the prompts, of (P,), that have a value, the others being NaN."""
        known = ~np.isnan(values)
        return self.ratio(np.where(known, values, 0.0), known.astype(np.float64))

    def auroc(self, scores: Floats, positive: NDArray[np.bool_]) -> Resampled:
        """The chance that a positive one of (P, N) completions scores above a negative one; equal ones count half."""
        order = np.argsort(scores, axis=None)
        prompt = np.repeat(np.arange(len(scores)), scores.shape[1])[order]
        is_positive = positive.ravel()[order]
        _, starts = np.unique(scores.ravel()[order], return_index=True)  # of runs of equal scores

        def of(counts: Floats) -> Floats:
            weights = counts[:, prompt]
            above = np.add.reduceat(weights * is_positive, starts, axis=1)
            below = np.add.reduceat(weights * ~is_positive, starts, axis=1)
            pairs = above.sum(axis=1) * below.sum(axis=1)
            with np.errstate(invalid="ignore"):  # 0 / 0 where one kind is missing
                return (above * (below.cumsum(axis=1) - below / 2)).sum(axis=1) / pairs

        return Resampled(float(of(np.ones((1, len(scores))))[0]), of(self._counts))

    def correlation(self, x: Floats, y: Floats) -> Resampled:
        """Pearson's correlation within prompts, of (P, G) values whose prompts' means have been taken off."""
        sums = [(one * other).sum(axis=1) for one, other in ((x, y), (x, x), (y, y))]
        with np.errstate(invalid="ignore"):
            xy, xx, yy = (self._counts @ each for each in sums)
            value = float(sums[0].sum() / np.sqrt(sums[1].sum() * sums[2].sum()))
            return Resampled(value, xy / np.sqrt(xx * yy))
