"""Whether what `rlif diagnose` said before training is what training then did, for every start model and reward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from rlif.files.json_values import with_nan
from rlif.lab.findings import SMALL, TrialResult, course, select
from rlif.lab.plan import RATIOS, start_name
from rlif.rewards.registry import INTERNAL

# The start model that the thresholds of `rlif.diagnosis.verdict` were set by, together with others that were tuned
# from it in other ways and are not in the lab. Nothing was set by the rest.
FITTED = ("base",)
# The measures of the diagnosis that stand beside its verdict.
SHOWN = ("entropy", "agreement", "separation", "alignment")


def outcome(trials: Sequence[TrialResult]) -> str:
    """Say what training did, stopped by the guard and not stopped, in the words of `rlif.diagnosis.verdict.Outlook`.

    It helped if the guarded policy is better by more than chance would make it; else it was a risk if the last policy
    is worse by as much, and there was little to gain if not.
    """
    courses = [course(each) for each in trials]
    if fmean(each.guarded - each.start for each in courses) >= SMALL:
        return "likely to help"
    if fmean(each.start - each.last for each in courses) >= SMALL:
        return "risk of collapse"
    return "little to gain"


def pairs_table(results: Sequence[TrialResult], diagnoses: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every pair of start model and internal reward that has a trial."""
    table = []
    for ratio in RATIOS:
        start = start_name(ratio)
        for reward in INTERNAL:
            trials = select(results, ratio, [reward])
            if not trials:
                continue
            diagnosis = diagnoses[start]["rewards"][reward]
            measures = diagnoses[start]["measures"] | diagnosis["measures"]
            courses = [course(each) for each in trials]
            table.append(
                {
                    "start": start,
                    "reward": reward,
                    "held_out": start not in FITTED,
                    "seeds": len(trials),
                    **{name: with_nan(measures[name])["value"] for name in SHOWN},
                    "verdict": diagnosis["verdict"]["outlook"],
                    "sureness": diagnosis["verdict"]["sureness"],
                    "outcome": outcome(trials),
                    "start_accuracy": fmean(each.start for each in courses),
                    "gain": fmean(each.guarded - each.start for each in courses),
                    "end": fmean(each.last - each.start for each in courses),
                }
            )
    return table
