"""The tables of the suite `real-family`."""

from __future__ import annotations

from typing import Any

from benchmarks.report.explain import interval
from benchmarks.report.markdown import notes, table
from benchmarks.report.real_training import trained

Entry = dict[str, Any]
# Thresholds of the discriminator.
SHOWN = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
# What of the form for confidence in words a completion may have.
FORM = {"`<answer>`": "answer_tag", "`<confidence>`": "confidence_tag", "the whole form": "well_formed"}


def real_family(results: dict[str, Any]) -> str:
    """What each command found: two tables of trying again, one of what is stated, one of what trains."""
    entries = {entry["name"]: entry for entry in results["entries"]}
    settings = results["settings"]
    parts = [acceptance(entries, settings), retries(entries, settings), stated(entries),
             trained(entries, settings)]  # fmt: skip
    missing = [f"{name}: {reason}" for name, reason in results["missing"].items()]
    told = f"{results['model']}, word problems of level 1 at temperature {settings['temperature']}, float32."
    return "\n\n".join([*(part for part in parts if part), told]) + notes({}, missing, [])


def acceptance(entries: dict[str, Entry], settings: dict[str, Any]) -> str:
    """A row for each threshold, with what the discriminators of both labels accept."""
    if (fitted := entries.get("discriminators")) is None:
        return ""
    rows, headings, told = [], ["threshold"], []
    for labels, kind in (("gold", "right"), ("majority", "the majority's")):
        record = fitted["discriminators"][labels]
        headings += [f"{labels}: accepted", kind]
        told.append(f"{record['accepted_by_the_labels']:.0%} are {kind} (AUROC {record['held_out']['auroc']:.2f})")
    for threshold in SHOWN:
        cells = []
        for record in fitted["discriminators"].values():
            held_out = record["held_out"]
            shares = zip(held_out["accepted"], held_out["precision"], strict=True)
            at = dict(zip(held_out["thresholds"], shares, strict=True))
            cells += [f"{each:.0%}" for each in at[threshold]] if threshold in at else ["0%", ""]
        rows.append([f"{threshold:g}", *cells])
    return (
        f"What discriminators of `rlif retry` accept of the {record['completions']} stated answers of "
        f"{settings['fit_generations']} samples of each of {settings['fitted']} problems, by those of other problems. "
        f"In all {' and '.join(told)}:\n\n{table(headings, rows)}"
    )


def retries(entries: dict[str, Entry], settings: dict[str, Any]) -> str:
    """What trying again came to."""
    if (entry := entries.get("retry")) is None:
        return ""
    measures = ("first", "precision", "gain", "recall", "accuracy")
    cells = [interval(entry[name]) for name in measures]
    cells += [f"{entry['ends']['accepted']:.0%}", f"{entry['attempts']['value']:.1f}", minutes(entry)]
    headings = ["first attempts right", "accepted answers right", "difference", "right ones accepted",
                "answers right in the end", "accepted", "attempts", "minutes"]  # fmt: skip
    return (
        f"Trying again at {settings['asked']} held-out problems, at most {settings['max_rounds']} attempts at each, "
        f"accepted from {entry['threshold']:g} on by the discriminator of gold answers, rejected attempts not shown; "
        f"95% intervals over problems, minutes of one core:\n\n{table(headings, [cells])}"
    )


def stated(entries: dict[str, Entry]) -> str:
    """A row for each thing that completions were asked to state."""
    rows = []
    if (found := entries.get("stated-confidence")) is not None:
        count = found["completions"]
        for asked, name in FORM.items():
            cells = [str(count), f"{found['finished'] / count:.0%}", f"{found[name] / count:.0%}"]
            rows.append([f"confidence in words: {asked}", *cells])
    if (found := entries.get("verify")) is not None:
        count = found["verifications"]
        cells = [str(count), f"{found['finished'] / count:.0%}", f"{found['rated'] / count:.0%}"]
        rows.append(["verification: a rating", *cells])
    if not rows:
        return ""
    headings = ["asked for", "completions", "ended", "stated"]
    return f"What completions state that are asked for it:\n\n{table(headings, rows)}"


def minutes(entry: Entry) -> str:
    return f"{entry['processor_seconds'] / 60:.1f}"
