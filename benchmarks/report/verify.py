"""The table of the suite `verify`."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.report.markdown import table


def verify(results: dict[str, Any]) -> str:
    """Return a row for each way of training: the means over its seeds, and their range."""
    settings, runs = results["settings"], dict[str, list[dict[str, Any]]]()
    for each in results["entries"]:
        runs.setdefault(each["run"], []).append(each["held_out"])
    rows = [
        [
            name,
            *(spread([one[measure]["value"] for one in found]) for measure in ("accuracy", "majority")),
            *(spread([one[measure]["value"] for one in found]) for measure in ("weighted_majority", "best_of")),
            spread([one["balanced_accuracy"] for one in found]),
            *(spread([one[measure] for one in found], ".2f") for measure in ("auroc", "auroc_within")),
        ]
        for name, found in runs.items()
    ]
    size = settings["num_generations"]
    headings = ["trained to", "solving", f"majority of {size}", "weighted vote", f"best of {size}",
                "verifying, balanced", "AUROC", "within"]  # fmt: skip
    seeds = len({each["seed"] for each in results["entries"] if each["seed"] is not None})
    told = (
        f"{settings['num_prompts']} held-out problems after {settings['max_steps']} steps, {size} solutions of each "
        f"and {settings['num_verifications']} verifications of each, by the model that wrote it; {seeds} seeds "
        "with their range. *Weighted vote* and *best* go by the share of verifications that call a solution right."
    )
    return f"{table(headings, rows)}\n\n{told}"


def spread(values: list[float], form: str = ".1%") -> str:
    """A mean, and the range of several values."""
    mean = f"{statistics.fmean(values):{form}}"
    return mean if len(values) == 1 else f"{mean} ({min(values):{form}} to {max(values):{form}})"
