"""The table of the suite `guard`."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.report.markdown import notes, table
from benchmarks.report.verify import spread

# The suite's runs.
RIGHT, VERIFY = "right answers", "right answers, and to verify"
LABELS = {"majority": "the start model's majorities", "gold": "gold answers"}

Entry = dict[str, Any]


def guard(results: dict[str, Any]) -> str:
    """Return what each guard keeps of a run on right answers, and what verification learns beside them."""
    runs = [each for each in results["entries"] if each["run"] == RIGHT]
    rows = [["none: the start model", "", spread([each["accuracy"]["0"] for each in runs]), ""]]
    for labels, title in LABELS.items():
        found = [each["guards"][labels] for each in runs]
        steps = sorted(one["step"] for one in found)
        warned = sum(one["warning"] is not None for one in found)
        shown = str(steps[0]) if steps[0] == steps[-1] else f"{steps[0]} to {steps[-1]}"
        accuracy: list[float | None] = [
            each["accuracy"][str(one["step"])] for each, one in zip(runs, found, strict=True)
        ]
        rows.append([title, shown, spread(accuracy), f"{warned} of {len(runs)}"])
    last: list[float | None] = [each["accuracy"][str(each["last_step"])] for each in runs]
    rows.append(["none: the last step", str(runs[0]["last_step"]), spread(last), ""])
    settings = results["settings"]
    told = (
        f"The instruct-like model on right answers, {settings['max_steps']} steps, evaluated every "
        f"{settings['eval_steps']}; {settings['test_prompts']} test problems that no run and no guard has seen; "
        f"{len(runs)} seeds with their range."
    )
    missing = [f"{name}: {reason}" for name, reason in results["missing"].items()]
    headings = ["the guard goes by", "keeps step", "right", "calls it a fall"]
    return f"{table(headings, rows)}\n\n{told}{verification(results)}" + notes({}, missing, [])


def verification(results: dict[str, Any]) -> str:
    """Say what verification learnt in the runs that were to learn it, if there are any."""
    found = [each["verifying"] for each in results["entries"] if each["run"] == VERIFY and each["verifying"]]
    if not found:
        return ""
    balanced, equal = (
        statistics.fmean(one[name] for one in found) for name in ("balanced_accuracy", "frac_reward_zero_std")
    )
    seeds = f"{len(found)} {'seed' if len(found) == 1 else 'seeds'}"
    return (
        f" Asked to verify as well, the same model had a balanced accuracy of {balanced:.0%} over the run (50% is "
        f"chance), and in {equal:.0%} of the groups of verifications all had one reward, which teaches nothing "
        f"({seeds})."
    )
