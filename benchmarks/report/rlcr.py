"""The table of the suite `rlcr`, and what it says of the paper's claim."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.report.markdown import notes, table
from benchmarks.report.seen import Agreement, Seen, in_points, with_interval
from benchmarks.report.verify import by_seed, spread

# The goal: so much of RLVR's ECE at most, and so much less of its accuracy.
ECE_RATIO = 1 / 3
SMALL = 0.02


def rlcr(results: dict[str, Any]) -> str:
    """Return a row for each way of training: the means over its seeds, and their range."""
    settings, runs = results["settings"], dict[str, list[dict[str, Any]]]()
    for each in results["entries"]:
        runs.setdefault(each["run"], []).append(each["held_out"])
    rows = [
        [
            name,
            *(spread([one.get(share, {}).get("value") for one in found]) for share in ("accuracy", "majority")),
            spread([one.get("weighted_majority", {}).get("value") for one in found]),
            spread([one["stated"] for one in found]),
            *(spread([one[measure] for one in found], ".3f") for measure in ("ece", "brier", "auroc")),
        ]
        for name, found in runs.items()
    ]
    size = settings["num_generations"]
    headings = ["trained on", "right", f"majority of {size}", "weighted vote", "confidence stated", "ECE", "Brier",
                "AUROC"]  # fmt: skip
    seeds = len({each["seed"] for each in results["entries"] if each["seed"] is not None})
    over = f"{seeds} seeds with their range" if seeds > 1 else "one seed"
    told = (
        f"{settings['num_prompts']} held-out problems after {settings['max_steps']} steps, {size} solutions of each; "
        f"{over}. ECE, Brier score and AUROC are of the stated confidence, by which the votes are weighed."
    )
    missing = [f"{name}: {reason}" for name, reason in results["missing"].items()]
    return f"{table(headings, rows)}\n\n{told}" + notes({}, missing, [])


def seen(results: dict[str, Any]) -> Seen:
    """Is the stated confidence calibrated, at the accuracy of right answers alone?"""
    pairs = by_seed(results, "RLVR", "RLCR")
    errors = [[one["ece"] for one in pair] for pair in pairs]
    ratios = [after / before for before, after in errors]
    more = [after["accuracy"]["value"] - before["accuracy"]["value"] for before, after in pairs]
    ratio, change = statistics.fmean(ratios), statistics.fmean(more)
    agrees: Agreement = "yes" if ratio <= ECE_RATIO and change >= -SMALL else "partly" if ratio < 1 else "no"
    before, after = (with_interval([pair[side] for pair in errors], ".3f") for side in (0, 1))
    auroc = with_interval([after["auroc"] for _, after in pairs], ".2f")
    why = "the start model's confidence is drawn at random, and right answers alone leave it so"
    if change < -SMALL:
        why = "accuracy suffers"
    elif ratio > ECE_RATIO:
        why = "the confidence is calibrated in part"
    return Seen(f"ECE {after}, {ratio:.2f} of RLVR's {before}; AUROC {auroc}; accuracy {in_points(more)}", agrees, why)
