"""The table `family`: what each method's paper claims beside what its suite saw on the built-in task.

A method is one line of `MEMBERS`: its suite, its paper, the claim, the goal here, and the function of its report module
that reads the suite's results.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.report import collapse, explain, introspect, length_conditioned, retry, rlcr, verify
from benchmarks.report.markdown import table
from benchmarks.report.seen import Seen

# Whose published runs are read: `rlif lab` makes them, in an hour.
LAB = "lab"


class Member(NamedTuple):
    """One claim of one paper."""

    suite: str
    """Of `benchmarks.runner.SUITES`, or the lab."""
    method: str
    paper: str
    """Its arXiv id."""
    claim: str
    """In words and figures of the paper."""
    goal: str
    """What would count as the same, here."""
    seen: Callable[[dict[str, Any]], Seen]
    """Of the suite's results."""


MEMBERS = (
    Member(
        "rlcr", "RLCR", "2507.16806",
        "calibrated at no cost in accuracy: 7B on mathematics, ECE .050 and accuracy .687, RLVR .300 and .654",
        "ECE at most a third of RLVR's, accuracy within 2 points", rlcr.seen,
    ),
    Member(
        "verify", "RISE, solve and verify", "2505.13445",
        "solving improves, and strong self-verification comes with it",
        "balanced accuracy of verifying +15 points, no loss of solving", verify.seen,
    ),
    Member(
        "length-conditioned", "Rc-BT, Rc-DPO", "2502.00814",
        "rewards learn length; comparing prompts whose length instruction one answer keeps or breaks frees them of it",
        "correlation of score and length halved, no loss on pairs of the same length", length_conditioned.seen,
    ),
    Member(
        "retry", "DRR", "2501.01457",
        "a discriminator that rejects wrong attempts makes a reasoner right more often, which is never tuned",
        "accepted answers right 10 points more often than first attempts", retry.seen,
    ),
    Member(
        "introspect", "RISE, recursive introspection", "2407.18219",
        "over the turns models improve on mathematics, more than single-turn strategies at the same compute",
        "the majority of five turns above that of five samples", introspect.seen,
    ),
    Member(
        "explain", "Inverse RL", "2410.12491",
        "the reward that a training followed is recovered, with up to 85% of its signs",
        "names self-certainty and right answers, each of its own run", explain.seen,
    ),
    Member(
        LAB, "Collapse step", "2603.08660",
        "models that collapse later gain more: seven models, in the same order by both",
        "collapse steps and gains by majority votes of the lab's models: rank correlation of 0.9", collapse.seen,
    ),
    Member(
        "collapse", "Few prompts", "2603.08660",
        "no collapse on 128 prompts or fewer within 600 steps, always on 512 or more",
        "no collapse on 32 and 128 prompts", collapse.seen_few,
    ),
)  # fmt: skip
SUITES = tuple(dict.fromkeys(member.suite for member in MEMBERS if member.suite != LAB))


def claims(find: Callable[[str], Path | None], page: Path) -> str:
    """Return a row for each claim, and the files that they are read from.

    Args:
        find: gives the results file of a suite that is to be shown, or None.
        page: that the table stands on; links are relative to it.
    """
    files = {suite: find(suite) for suite in dict.fromkeys(member.suite for member in MEMBERS)}
    results = {suite: json.loads(path.read_text()) for suite, path in files.items() if path is not None}
    rows = []
    for member in MEMBERS:
        first = [member.method, f"[{member.paper}](https://arxiv.org/abs/{member.paper})", member.claim, member.goal]
        if member.suite not in results:
            rows.append([*first, "", "not measured yet", ""])
            continue
        found = member.seen(results[member.suite])
        rows.append([*first, found.figures, f"**{found.agrees}**", found.why])
    links = [
        f"[`{path.name}`]({Path(os.path.relpath(path, page.parent)).as_posix()})" for path in files.values() if path
    ]
    shown = table(["method", "paper", "its claim", "goal here", "seen", "agrees", "why"], rows)
    source = f"From {', '.join(links)}." if links else "No suite has been run."
    return f"{shown}\n\nIn brackets: 95% intervals over seeds, or over problems where one run is meant. {source}"


def is_shown(results: dict[str, Any]) -> bool:
    """Whether results are of a whole run of full size, in which no step was left out for want of time."""
    return results["size"] == "full" and bool(results["finished"]) and not results["skipped"]
