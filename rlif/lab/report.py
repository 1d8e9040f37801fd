"""The lab's report: report.md, its figures, and lab.json with every number that they show."""

from __future__ import annotations

import dataclasses
import platform
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from rlif.digits import duration
from rlif.errors import UserError
from rlif.files.checksums import check_seal
from rlif.files.json_values import json_text, read_json
from rlif.files.versions import versions
from rlif.files.whole import write_text
from rlif.lab.figures import draw_all
from rlif.lab.findings import Finding, TrialResult, findings, points, select
from rlif.lab.findings import course as course_of
from rlif.lab.guard_rules import guarded_against_start, late_choices, rules_table
from rlif.lab.options import LabConfig, Size
from rlif.lab.plan import DEGENERATE, Trial
from rlif.lab.trials import RESULT, SAMPLES, read_result
from rlif.lab.verdicts import pairs_table
from rlif.metrics.calibration import reliability_bins
from rlif.plots.reliability import plot_reliability

POLICIES = {"start": "start model", "guarded": "guard's choice", "last": "last step"}


def write_lab_report(directory: Path, config: LabConfig, size: Size, trials: Sequence[Trial]) -> None:
    """Put together what all stages left.

    Raises:
        UserError: a trial has no result.
    """
    missing = [trial.name for trial in trials if not (directory / "runs" / trial.name / RESULT).exists()]
    if missing:
        raise UserError(f"output_dir: {directory} lacks the results of {', '.join(missing)}; --resume runs them")
    results: list[TrialResult] = [read_result(directory / "runs" / trial.name / RESULT) for trial in trials]
    found, rules, guarded = conclusions(results, directory / "runs")
    diagnoses, pairs = pairs_of(results, directory / "diagnoses.json")
    with damaged_results(directory / "runs"):
        drawn = draw_all(results, directory)
    drawn.append(draw_trials_reliability(directory, trials))
    summary: dict[str, Any] = {
        "versions": versions(),
        "machine": f"{platform.machine()}, {config.workers} trials at a time",
        "quick": config.quick,
        "size": dataclasses.asdict(size),
        "cpu_minutes": sum(each["cpu_seconds"] for each in results) / 60,
        "findings": [dataclasses.asdict(each) for each in found],
        "guard_rules": rules,
        "guarded": guarded,
        "pairs": pairs,
        "diagnoses": diagnoses,
    }
    lines = [json_text(each, indent=None) for each in results]
    body = json_text(summary)[:-2]  # one trial a line: the file stays readable and small
    write_text(directory / "lab.json", f'{body},\n "trials": [\n' + ",\n".join(lines) + "\n ]\n}\n")
    write_text(directory / "report.md", page(summary, found, results, drawn))


def conclusions(
    results: Sequence[TrialResult], runs: Path
) -> tuple[list[Finding], list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the findings, the rules of the guard, and how policies compare with their start models.

    Raises:
        UserError: naming the directory of the trials: one of them lacks what they rest on.
    """
    with damaged_results(runs):
        concluded = findings(results), rules_table(results), guarded_against_start(results)
    return concluded


@contextmanager
def damaged_results(runs: Path) -> Iterator[None]:
    """Within, what results of trials lack is a `UserError` that names their directory."""
    try:
        yield
    except (KeyError, ValueError) as error:  # of a metric, a step or a trial that is not there
        raise UserError(
            f"output_dir: a {RESULT} in {runs} is damaged ({type(error).__name__}: {error}); expected what trials "
            "write, or those removed, so that --resume runs them again"
        ) from error


def pairs_of(results: Sequence[TrialResult], path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Read the diagnoses, and return them with the pairs of what they said and what training did.

    Raises:
        UserError: they are damaged.
    """
    diagnoses = read_json(path)
    try:
        check_seal(diagnoses, f"output_dir: {path}")
        return diagnoses, pairs_table(results, diagnoses)
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(
            f"output_dir: {path} is damaged ({type(error).__name__}: {error}); expected it whole, or removed, so that "
            "--resume diagnoses anew"
        ) from error


def draw_trials_reliability(directory: Path, trials: Sequence[Trial], name: str = "reliability.png") -> str:
    """Reliability of the mean token probability on the base, for self-certainty: start, guard's choice, last step."""
    first = next(trial for trial in trials if trial.ratio == 0.0 and trial.reward == "self_certainty")
    path = directory / "runs" / first.name / SAMPLES
    try:
        with np.load(path) as saved:
            bins = {
                title: reliability_bins(saved[f"{key}/probability"], saved[f"{key}/correct"].astype(bool))
                for key, title in POLICIES.items()
            }
    except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"output_dir: {path} cannot be read ({type(error).__name__}); expected what a trial writes, or {RESULT} "
            "beside it removed, so that --resume runs it again"
        ) from error
    plot_reliability(bins, directory / name)
    return name


def page(
    summary: dict[str, Any], found: Sequence[Finding], results: Sequence[TrialResult], drawn: Sequence[str]
) -> str:
    """report.md."""
    size, pairs, rules = summary["size"], summary["pairs"], summary["guard_rules"]
    internal = select(results)
    lines = [
        "# No Free Lunch, in the lab",
        "",
        "What [2506.17219](https://arxiv.org/abs/2506.17219) finds out about internal rewards on models of 3B "
        "parameters, tried on models of 0.4M that add numbers, "
        f"seeds: {len({each['seed'] for each in results})}. Accuracy is that of sampled solutions "
        f"(temperature 1) of {size['eval_prompts']} held-out problems x 4, every {size['eval_steps']} of "
        f"{size['max_steps']} steps. The majority answers that the guard goes by are those to {size['guard_prompts']} "
        "other problems, which have no answers; whether samples are degenerate it judges by all of them. "
        f"{len(results)} trials, {duration(60 * summary['cpu_minutes'])} of processor time.",
        "",
        "![Training](training.png)",
        "",
        "## The paper's findings",
        "",
        "| finding | here |",
        "| --- | --- |",
        *(f"| {each.title} | **{each.agreement}** |" for each in found),
        "",
    ]
    for each in found:
        lines += [f"### {each.title}: {each.agreement}", "", f"*Paper:* {each.claim}", "", f"*Here:* {each.seen}", ""]
        if each.title.startswith("Gain shrinks"):
            lines += ["![Gain and initial entropy](mixes.png)", ""]
        if each.title.startswith("Early gains"):
            lines += ["![Format and confidence](confidence.png)", "", "![Reliability](reliability.png)", ""]
    lines += guard_section(rules, summary["guarded"], internal, results)
    lines += diagnosis_section(pairs)
    lines += ["## Everything", "", "Numbers: [lab.json](lab.json). Figures: " + ", ".join(f"[{n}]({n})" for n in drawn)]
    return "\n".join(lines) + ".\n"


def guard_section(
    rules: Sequence[dict[str, Any]],
    guarded: Sequence[dict[str, Any]],
    internal: Sequence[TrialResult],
    results: Sequence[TrialResult],
) -> list[str]:
    """Report how the guard did."""
    worst = min(each["guarded"] - each["start"] for each in guarded)
    mean = {name: 100 * float(np.mean([each[name] for each in guarded])) for name in ("start", "guarded", "last")}
    lines = [
        "## The guard",
        "",
        f"All {len(internal)} trials on internal rewards. How many points the chosen policy is below the best "
        "checkpoint in hindsight, on the same evaluations (whose noise flatters that best one); no rule sees gold "
        "answers.",
        "",
        "| rule | below the best, mean | worst | change from the start model, mean |",
        "| --- | ---: | ---: | ---: |",
        *(
            f"| {each['rule']} | {100 * each['regret']:.1f} | {100 * each['worst']:.1f} | {100 * each['gain']:+.1f} |"
            for each in rules
        ),
        "",
        f"On test problems that no run had seen: {mean['start']:.1f}% start model, **{mean['guarded']:.1f}%** guarded, "
        f"{mean['last']:.1f}% unguarded. The guarded policy's worst difference from its start model is "
        f"{100 * worst:+.1f} points.",
        "",
        "The runs went on to the end, though the guard would have stopped some of them. Trials in which it came to a "
        "better policy after that, which a stopped run would not have found: "
        f"{', '.join(late_choices(internal)) or 'none'}.",
        "",
        "![The guard's choices](guard.png)",
        "",
    ]
    for each in (trial for trial in results if trial["reward"] == DEGENERATE):
        course = course_of(each)
        lines += [
            f"A reward that shortens completions (`{DEGENERATE}`, one trial, not in the table): "
            f"{points([course], 'start')} at the start, {points([course], 'guarded')} at the guard's choice (step "
            f"{each['guard_step']}), {points([course], 'last')} at the end. {each['warning'] or 'No warning.'}",
            "",
        ]
    return lines


def diagnosis_section(pairs: Sequence[dict[str, Any]]) -> list[str]:
    """Whether `rlif diagnose` was right."""
    agreed = {
        held_out: [each["verdict"] == each["outcome"] for each in pairs if each["held_out"] is held_out]
        for held_out in (False, True)
    }
    everything = agreed[False] + agreed[True]
    lines = [
        "## The diagnosis",
        "",
        f"`rlif diagnose` before training against what training then did: right for {sum(everything)} of "
        f"{len(everything)} pairs of start model and reward. Its thresholds were set on the base "
        f"({sum(agreed[False])} of {len(agreed[False])}) and on models that are not in this lab; the other start "
        f"models are held out ({sum(agreed[True])} of {len(agreed[True])}).",
        "",
        "| start model | reward | entropy | agreement | separation | alignment | verdict | sure | guarded gain | "
        "change at the end | came true |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- | ---: | ---: | ---: | --- |",
    ]
    for each in pairs:
        right = "yes" if each["verdict"] == each["outcome"] else f"no: {each['outcome']}"
        lines.append(
            f"| {each['start']} | `{each['reward']}` | {each['entropy']:.3f} | {each['agreement']:.2f} | "
            f"{each['separation']:.2f} | {each['alignment']:.2f} | {each['verdict']} | {each['sureness']:.0%} | "
            f"{100 * each['gain']:+.1f} | {100 * each['end']:+.1f} | {right} |"
        )
    return [*lines, ""]
