"""The table of the suite `verify`."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.report.markdown import table
from benchmarks.report.seen import Agreement, Seen, in_points

# The goal: so many more points of balanced accuracy, at a loss of accuracy that is none by the error of measuring it.
GOAL, SMALL = 0.15, 0.01
# Whose solutions a model verifies: what it wrote itself, and what the start model wrote.
SOLUTIONS = ("held_out", "of_the_start")


def verify(results: dict[str, Any]) -> str:
    """Return a row for each way of training: the means over its seeds, and their range."""
    settings, runs = results["settings"], dict[str, list[dict[str, Any]]]()
    for each in results["entries"]:
        runs.setdefault(each["run"], []).append(each)
    rows = [
        [
            name,
            *(
                spread([one["held_out"][measure]["value"] for one in found])
                for measure in ("accuracy", "majority", "weighted_majority")
            ),
            *(
                spread([one[solutions][measure] for one in found], form)
                for solutions in SOLUTIONS
                for measure, form in (("balanced_accuracy", ".1%"), ("auroc", ".2f"))
            ),
        ]
        for name, found in runs.items()
    ]
    size = settings["num_generations"]
    headings = ["trained to", "solving", f"majority of {size}", "weighted vote", "verifying its own", "AUROC",
                "verifying the start's", "AUROC"]  # fmt: skip
    seeds = len({each["seed"] for each in results["entries"] if each["seed"] is not None})
    told = (
        f"{settings['num_prompts']} held-out problems after {settings['max_steps']} steps, {size} solutions of each "
        f"and {settings['num_verifications']} verifications of each; {seeds} seeds with their range. *Verifying* is "
        "the balanced accuracy of one verification, of the solutions that the model wrote itself and of those of the "
        "start model, which are the same for all. *Weighted vote* goes by the share of verifications of its own."
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
    """Does verification of the same solutions improve, at no loss of solving?"""
    shown, changes = [], []
    for name in ("solve", "solve, by majority"):
        names = (name, name.replace("solve", "solve and verify"))
        own, same = (
            [
                after["balanced_accuracy"] - before["balanced_accuracy"]
                for before, after in by_seed(results, *names, of=of)
            ]
            for of in SOLUTIONS
        )
        solving = [
            after["accuracy"]["value"] - before["accuracy"]["value"] for before, after in by_seed(results, *names)
        ]
        changes.append((statistics.fmean(same), statistics.fmean(solving)))
        labels = "labels by majority" if "majority" in name else "gold labels"
        shown.append(
            f"{labels}: balanced accuracy of the start's solutions {in_points(same)}, of its own {in_points(own)}, "
            f"solving {in_points(solving)}"
        )
    gained, lost = changes[0]
    reached, kept = gained >= GOAL, lost >= -SMALL
    agrees: Agreement = "yes" if reached and kept else "partly" if gained > 0 else "no"
    wanting = ([] if reached else [f"less than {100 * GOAL:.0f} points are gained"]) + (
        [] if kept else [f"solving loses more than {100 * SMALL:.0f} point"]
    )
    why = "verification is learnt beside solving; its own mistakes become harder to tell as they become fewer"
    return Seen("; ".join(shown), agrees, " and ".join(wanting) or why)


def by_seed(results: dict[str, Any], *names: str, of: str = "held_out") -> list[list[dict[str, Any]]]:
    """Return the measures of these runs under `of`, of each seed that has them all."""
    found = {(each["run"], each["seed"]): each[of] for each in results["entries"]}
    seeds = sorted({seed for run, seed in found if seed is not None})
    return [[found[name, seed] for name in names] for seed in seeds if all((name, seed) in found for name in names)]
