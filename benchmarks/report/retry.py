"""The table of the suite `retry`."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.report.explain import interval
from benchmarks.report.markdown import notes, table
from benchmarks.report.seen import Agreement, Seen, in_points

# The goal: how much more often accepted answers are right than first attempts.
GOAL = 0.10


def retry(results: dict[str, Any]) -> str:
    """A row for each seed and way of trying again."""
    majority = {entry["seed"]: entry["majority"] for entry in results["entries"] if not entry["labels"]}
    rows = [
        [
            entry["labels"],
            "shown" if entry["shown"] else "not shown",
            str(entry["seed"]),
            interval(entry["first"]),
            interval(entry["precision"]),
            interval(entry["gain"]),
            interval(entry["recall"]),
            interval(entry["accuracy"]),
            f"{majority[entry['seed']]:.0%}",
            f"{entry['attempts']['value']:.1f}",
            f"{entry['ends']['accepted']:.0%}",
        ]
        for entry in results["entries"]
        if entry["labels"]
    ]
    headings = ["labels", "rejected attempts", "seed", "first attempts right", "accepted answers right", "difference",
                "right ones accepted", "answers right in the end", f"majority of {results['max_rounds']}", "attempts",
                "accepted"]  # fmt: skip
    told = (
        f"{results['asked']} held-out problems, at most {results['max_rounds']} attempts at each, accepted from a "
        f"probability of 0.5 on; the discriminator is fitted on {results['num_generations']} samples of each of "
        f"{results['fitted_on']} other problems. 95% intervals over problems."
    )
    missing = [f"{name}: {reason}" for name, reason in results["missing"].items()]
    return f"{table(headings, rows)}\n\n{told}" + notes({}, missing, [])


def seen(results: dict[str, Any]) -> Seen:
    """Are accepted answers right more often than answers are?"""
    shown, gains = [], dict[str, list[float]]()
    votes = {entry["seed"]: entry["majority"] for entry in results["entries"] if not entry["labels"]}
    for labels in ("gold", "majority"):
        runs = [each for each in results["entries"] if each["labels"] == labels and not each["shown"]]
        gains[labels] = [each["precision"]["value"] - each["first"]["value"] for each in runs]
        over_votes = [each["precision"]["value"] - votes[each["seed"]] for each in runs]
        shown.append(
            f"labels {labels}: accepted answers {in_points(gains[labels])} against first attempts, "
            f"{in_points(over_votes)} against the majority of {results['max_rounds']}"
        )
    means = [statistics.fmean(gain) for gain in gains.values()]
    agrees: Agreement = "yes" if min(means) >= GOAL else "partly" if max(means) > 0 else "no"
    return Seen(
        "; ".join(shown), agrees, "token statistics tell the built-in model's slips; the rejected attempt adds nothing"
    )
