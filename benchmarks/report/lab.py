"""Tables of what `rlif lab` found."""

import json
from collections.abc import Callable
from typing import Any

from benchmarks.report.collapse import lab_collapse
from benchmarks.report.markdown import table


def findings_table(results: dict[str, Any]) -> str:
    rows = [[each["title"], f"**{each['agreement']}**"] for each in results["findings"]]
    return table(["the paper's finding", "here"], rows)


def guard(results: dict[str, Any]) -> str:
    rows = [
        [each["rule"], f"{100 * each['regret']:.1f}", f"{100 * each['worst']:.1f}", f"{100 * each['gain']:+.1f}"]
        for each in results["guard_rules"]
    ]
    return table(["keep the policy of", "below the best: mean", "worst", "above the start model: mean"], rows)


def diagnosis_table(results: dict[str, Any]) -> str:
    rows = []
    for name, held_out in (("set the thresholds", False), ("held out", True)):
        pairs = [each for each in results["pairs"] if each["held_out"] is held_out]
        right = sum(each["verdict"] == each["outcome"] for each in pairs)
        rows.append([name, ", ".join(dict.fromkeys(each["start"] for each in pairs)), str(len(pairs)), str(right)])
    return table(["pairs of start model and reward", "start models", "pairs", "verdict came true"], rows)


def record_table(results: dict[str, Any]) -> str:
    """What `rlif diagnose` says of its own verdicts: how often each came true in the lab, on held-out pairs."""
    held_out = [each for each in results["pairs"] if each["held_out"]]
    verdicts = {
        outlook: {
            "agreed": sum(each["verdict"] == each["outcome"] == outlook for each in held_out),
            "pairs": sum(each["verdict"] == outlook for each in held_out),
        }
        for outlook in sorted({each["verdict"] for each in held_out})
    }
    return json.dumps({"verdicts": verdicts}, indent=1) + "\n"


LAB_TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "lab-findings": findings_table,
    "lab-guard": guard,
    "lab-diagnosis": diagnosis_table,
    "lab-collapse": lab_collapse,
}
