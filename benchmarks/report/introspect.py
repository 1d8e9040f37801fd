"""The table of the suite `introspect`."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.report.explain import interval
from benchmarks.report.markdown import notes, table
from benchmarks.report.seen import Agreement, Seen, in_points

Entry = dict[str, Any]


def introspect(results: dict[str, Any]) -> str:
    """A row for the start model of each seed, and for what each run made of it."""
    settings = results["settings"]
    last = settings["turns"]
    rows: list[list[str]] = []
    for seed in sorted({entry["seed"] for entry in results["entries"]}):
        entries = [entry for entry in results["entries"] if entry["seed"] == seed]
        rows.append(["nothing yet", str(seed), *cells(entries[0], "start", last)])
        rows += [[entry["run"], str(seed), *cells(entry, "tuned", last)] for entry in entries]
    headings = ["trained by", "seed", "m1@t1", f"m{last}@t1", f"m1@t{last}", f"m1@t{last} less m{last}@t1",
                f"p1@t{last} less pass@{last}", "right after a wrong attempt", "right after a right one",
                "same answer again"]  # fmt: skip
    told = (
        f"{settings['held_out']} held-out problems, {last} turns or samples of each, after {settings['iterations']} "
        f"iterations on {settings['num_prompts']} other problems with {settings['num_candidates']} candidates. "
        f"*m1@t1* is one attempt, *m{last}@t1* the majority of {last} independent samples, *m1@t{last}* that of {last} "
        f"turns; *p1@t{last}* has an oracle, as pass@{last} has. The last three columns are of the second turn. 95% "
        "intervals over problems."
    )
    missing = [f"{name}: {reason}" for name, reason in results["missing"].items()]
    return f"{table(headings, rows)}\n\n{told}" + notes({}, missing, [])


def cells(entry: Entry, model: str, last: int) -> list[str]:
    """What the table says of one model."""
    measures, compared = entry["models"][model], entry["compared"][model]
    return [
        interval(measures["right"][0]),
        interval(measures["samples_majority"][-1]),
        interval(measures["majority"][-1]),
        interval(compared[f"m1@t{last} less m{last}@t1"]),
        interval(compared[f"p1@t{last} less pass@{last}"]),
        *(interval(measures[name][1]) for name in ("mended", "kept", "same")),
    ]


def seen(results: dict[str, Any]) -> Seen:
    """Is the majority of turns right more often than that of as many samples, by the tuned model?"""
    last = results["settings"]["turns"]
    shown, differences = [], dict[str, list[float]]()
    for labels in dict.fromkeys(entry["run"] for entry in results["entries"]):
        runs = [entry for entry in results["entries"] if entry["run"] == labels]
        differences[labels] = [each["compared"]["tuned"][f"m1@t{last} less m{last}@t1"]["value"] for each in runs]
        over_start = [each["compared"]["tuned less start"][f"m1@t{last}"]["value"] for each in runs]
        shown.append(
            f"labels {labels}: m1@t{last} {in_points(differences[labels])} against m{last}@t1, "
            f"{in_points(over_start)} against the start model's"
        )
    means = [statistics.fmean(values) for values in differences.values()]
    agrees: Agreement = "yes" if min(means) > 0 else "partly" if max(means) > 0 else "no"
    tuned = [entry["models"]["tuned"] for entry in results["entries"]]
    rates = [
        f"{statistics.fmean(values):.0%}" if (values := _known(tuned, name)) else "none" for name in ("mended", "kept")
    ]
    why = f"of second turns {rates[0]} are right after a wrong first one, {rates[1]} after a right one"
    return Seen("; ".join(shown), agrees, why)


def _known(models: list[dict[str, Any]], name: str) -> list[float]:
    return [each[name][1]["value"] for each in models if each[name][1]["value"] is not None]
