"""The table of the suite `verify`."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.report.markdown import table
from benchmarks.report.seen import Agreement, Seen, in_points

# The goal: so many more points of balanced accuracy, at a loss of accuracy that is none by the error of measuring it.
GOAL, SMALL = 0.15, 0.01


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


def spread(found: list[float | None], form: str = ".1%") -> str:
    """A mean, and the range of several values; nothing where none was measured."""
    values = [value for value in found if value is not None]
    if not values:
        return ""
    mean = f"{statistics.fmean(values):{form}}"
    return mean if len(values) == 1 else f"{mean} ({min(values):{form}} to {max(values):{form}})"


def seen(results: dict[str, Any]) -> Seen:
    """Does verification improve, at no loss of solving?"""
    shown, changes = [], []
    for name in ("solve", "solve, by majority"):
        pairs = by_seed(results, name, name.replace("solve", "solve and verify"))
        verifying = [after["balanced_accuracy"] - before["balanced_accuracy"] for before, after in pairs]
        solving = [after["accuracy"]["value"] - before["accuracy"]["value"] for before, after in pairs]
        changes.append((statistics.fmean(verifying), statistics.fmean(solving)))
        labels = "labels by majority" if "majority" in name else "gold labels"
        shown.append(f"{labels}: balanced accuracy {in_points(verifying)}, solving {in_points(solving)}")
    gained, lost = changes[0]
    reached, kept = gained >= GOAL, lost >= -SMALL
    agrees: Agreement = "yes" if reached and kept else "partly" if gained > 0 else "no"
    wanting = ([] if reached else [f"less than {100 * GOAL:.0f} points are gained"]) + (
        [] if kept else [f"solving loses more than {100 * SMALL:.0f} point"]
    )
    return Seen("; ".join(shown), agrees, " and ".join(wanting) or "verification is learnt beside solving")


def by_seed(results: dict[str, Any], *names: str) -> list[list[dict[str, Any]]]:
    """Return the held-out measures of these runs, of each seed that has them all."""
    found = {(each["run"], each["seed"]): each["held_out"] for each in results["entries"]}
    seeds = sorted({seed for run, seed in found if seed is not None})
    return [[found[name, seed] for name in names] for seed in seeds if all((name, seed) in found for name in names)]
