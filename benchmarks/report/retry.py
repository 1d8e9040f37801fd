"""The table of the suite `retry`."""

from __future__ import annotations

from typing import Any

from benchmarks.report.explain import interval
from benchmarks.report.markdown import notes, table


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
