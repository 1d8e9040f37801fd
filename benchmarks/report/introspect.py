"""The table of the suite `introspect`."""

from __future__ import annotations

from typing import Any

from benchmarks.report.explain import interval
from benchmarks.report.markdown import notes, table

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
