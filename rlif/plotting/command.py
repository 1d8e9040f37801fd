"""`rlif plot`: what several runs did, metric by metric."""

from __future__ import annotations

from rlif.plots.runs import compare_runs
from rlif.plotting.options import PlotConfig


def run(config: PlotConfig) -> None:
    """Draw the runs, and print where.

    Raises:
        UserError: no run, a directory without metrics, or a place that cannot be written.
    """
    print(compare_runs(config.runs, config.output))
