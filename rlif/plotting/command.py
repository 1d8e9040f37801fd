"""`rlif plot`: what several runs did, metric by metric."""

from __future__ import annotations

from rlif.plots.runs import compare_runs
from rlif.plotting.options import PlotConfig


def plot(config: PlotConfig) -> None:
    """`rlif plot`: draw the runs, and print where."""
    print(compare_runs(config))
