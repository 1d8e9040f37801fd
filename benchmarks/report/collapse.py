"""The tables of the suite `collapse`, and what it says of the paper's claim."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.report.markdown import notes, table
from benchmarks.report.seen import Agreement, Seen
from rlif.lab.findings import TrialResult, series
from rlif.lab.plan import BASELINE_REWARD, start_name
from rlif.metrics.ranks import rank_correlation
from rlif.rewards.registry import INTERNAL
from rlif.training.guard import Guard

# Rewards whose collapse steps stand in the table.
REWARDS = ("self_certainty", "token_entropy", "majority_vote")
# Those whose gain they are compared with: agreement, which needs no labels, and right answers.
MAJORITY, LABELS = "majority_vote", BASELINE_REWARD
# At which a training on few prompts is to end.
SAFE_STEP = 20
# Of a rank correlation: what is a prediction, and what a hint of one.
STRONG, WEAK = 0.9, 0.5
# Points of accuracy below which a change counts as none, as in the lab.
SMALL = 0.03

Entry = dict[str, Any]


def lab_entries(lab: dict[str, Any]) -> list[Entry]:
    """Return what is kept of the lab's runs on internal rewards and on right answers."""
    return [entry(each, "lab") for each in lab["trials"] if each["reward"] in (*INTERNAL, LABELS)]


def entry(result: TrialResult, kind: str, **more: int) -> dict[str, Any]:
    """What is kept of a trial."""
    accuracy, kl = series(result, "eval/accuracy"), series(result, "eval/kl")
    collapse = Guard.of_rows([row for row in result["rows"] if "eval/kl" in row]).collapse
    return {
        "kind": kind,
        "start": start_name(result["ratio"]),
        "reward": result["reward"],
        "seed": result["seed"],
        **more,
        "collapse_step": None if collapse is None else collapse.step,
        "entropy": series(result, "eval/entropy")[0],
        "accuracy": {"start": accuracy[0], "best": max(accuracy.values()), "last": list(accuracy.values())[-1]},
        "accuracy_at_20": accuracy.get(SAFE_STEP),
        "kl": list(kl.values())[-1],
    }


def lab_collapse(lab: dict[str, Any]) -> str:
    """Return the lab's start models by when they collapse and what they gain."""
    return models_table({"entries": lab_entries(lab), "settings": {"lab_steps": lab["size"]["max_steps"]}})


def collapse(results: dict[str, Any]) -> str:
    """Return the start models by when they collapse and what right answers gain, then trainings on few prompts."""
    missing = [f"{name}: {reason}" for name, reason in results["missing"].items()]
    return f"{models_table(results)}\n\n{few_prompts(results)}" + notes({}, missing, [])


def models_table(results: dict[str, Any]) -> str:
    """Return a row for each start model, and how far collapse steps order them by their gains."""
    starts, steps = start_models(results), results["settings"]["lab_steps"]
    rows = [
        [
            name,
            f"{found['entropy']:.3f}",
            *(step_text(found["steps"].get(reward, []), steps) for reward in REWARDS),
            *(gain_text(found["gains"].get(reward, [])) for reward in (MAJORITY, LABELS)),
        ]
        for name, found in starts.items()
    ]
    headings = ["start model", "entropy", *(f"collapse step, `{reward}`" for reward in REWARDS),
                "gain by majority votes, points", "gain by right answers, points"]  # fmt: skip
    told = [f"Means over seeds with their range, of runs of {steps} steps; gains are those of the last step."]
    for labels, words in ((MAJORITY, "majority votes"), (LABELS, "right answers")):
        count = sum(labels in found["gains"] for found in starts.values())
        if count > 2:  # the order of two says nothing
            shown = [f"of `{reward}` {number(ordering(results, reward, labels))}" for reward in REWARDS]
            told.append(
                f"Rank correlation of the gain by {words} with the collapse step over {count} models: "
                f"{', '.join(shown)}; with the entropy at the start {number(ordering(results, None, labels))}."
            )
    return f"{table(headings, rows)}\n\n{' '.join(told)}"


def few_prompts(results: dict[str, Any]) -> str:
    """Return the trainings of the base model on self-certainty, by how many prompts they had."""
    settings = results["settings"]
    fresh = settings["lab_steps"] * settings["prompts_per_step"]
    runs = [each for each in results["entries"] if each["kind"] == "few"] + [
        each | {"prompts": fresh}
        for each in results["entries"]
        if each["kind"] == "lab" and (each["start"], each["reward"]) == ("base", "self_certainty")
    ]
    rows = [
        [
            str(each["prompts"]),
            str(each["seed"]),
            f"{each['accuracy']['start']:.1%}",
            f"{each['accuracy_at_20']:.1%}" if each["accuracy_at_20"] is not None else "",
            f"{each['accuracy']['last']:.1%}",
            f"{each['kl']:.2f}",
            step_text([each["collapse_step"]], settings["lab_steps"]),
        ]
        for each in runs
    ]
    headings = ["prompts", "seed", "right at the start", "at step 20", "at the end", "KL at the end", "collapse step"]
    return table(headings, rows) + (
        f"\n\nThe base model on `self_certainty`, {settings['prompts_per_step']} prompts a step, "
        f"{settings['lab_steps']} steps; held-out problems, KL in nats a token."
    )


def start_models(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Gather each start model's entropy, and by reward its collapse steps and gains."""
    found: dict[str, dict[str, Any]] = {}
    for each in results["entries"]:
        if each["kind"] == "few":
            continue
        model = found.setdefault(each["start"], {"entropy": each["entropy"], "steps": {}, "gains": {}})
        gain = each["accuracy"]["last"] - each["accuracy"]["start"]
        model["gains"].setdefault(each["reward"], []).append(gain)
        model["steps"].setdefault(each["reward"], []).append(each["collapse_step"])
    return dict(sorted(found.items(), key=lambda item: -item[1]["entropy"]))


def ordering(results: dict[str, Any], reward: str | None, labels: str) -> float | None:
    """Return the rank correlation over start models of a gain with the collapse step on a reward, or with the entropy.

    A run that does not collapse counts as one that collapses after its end. None where all models are alike.

    Args:
        results: with the runs.
        reward: whose collapse steps are compared; None: the entropies.
        labels: the reward of the runs whose gain it is.
    """
    beyond = results["settings"]["lab_steps"] + 1
    models = [model for model in start_models(results).values() if labels in model["gains"]]
    found = [model["entropy"] for model in models]
    if reward is not None:
        models = [model for model in models if reward in model["steps"]]
        found = [
            statistics.fmean(beyond if step is None else step for step in model["steps"][reward]) for model in models
        ]
    gains = [statistics.fmean(model["gains"][labels]) for model in models]
    return rank_correlation(found, gains) if len(set(found)) > 1 else None


def gain_text(gains: list[float]) -> str:
    """Write the mean of gains in points, with their range."""
    if not gains:
        return ""
    mean = f"{100 * statistics.fmean(gains):+.1f}"
    return mean if len(gains) == 1 else f"{mean} ({100 * min(gains):+.1f} to {100 * max(gains):+.1f})"


def number(correlation: float | None) -> str:
    """Write a correlation, if there is one."""
    return "none, since no model collapses" if correlation is None else f"{correlation:.2f}"


def step_text(steps: list[int | None], last: int) -> str:
    """Write the mean of collapse steps with their range; those that were not reached are beyond the last."""
    reached = [step for step in steps if step is not None]
    if not steps:
        return ""
    if len(reached) < len(steps):
        return f"> {last}" if not reached else f"{min(reached)} to > {last}"
    mean = f"{statistics.fmean(reached):.0f}"
    return mean if len(reached) == 1 else f"{mean} ({min(reached)} to {max(reached)})"


def seen(lab: dict[str, Any]) -> Seen:
    """Does the collapse step order the lab's start models by what majority votes gain them?"""
    results = {"entries": lab_entries(lab), "settings": {"lab_steps": lab["size"]["max_steps"]}}
    found = {reward: ordering(results, reward, MAJORITY) for reward in REWARDS}
    entropy, certainty = ordering(results, None, MAJORITY), found["self_certainty"]
    agrees: Agreement = "no"
    if certainty is not None:
        agrees = "yes" if certainty >= STRONG else "partly" if certainty >= WEAK else "no"
    shown = "; ".join(f"rank correlation by `{reward}`: {number(value)}" for reward, value in found.items())
    why = f"{len(start_models(results))} models; the entropy at the start, which costs no training: {number(entropy)}"
    if found[MAJORITY] is None:
        why += "; on majority votes, the paper's reward, none collapses"
    return Seen(shown, agrees, why)


def seen_few(results: dict[str, Any]) -> Seen:
    """Do trainings on few prompts stay clear of the collapse?"""
    runs = [each for each in results["entries"] if each["kind"] == "few"]
    safe = [each for each in runs if each["collapse_step"] is None]
    better = [each for each in runs if (each["accuracy_at_20"] or 0.0) - each["accuracy"]["start"] >= SMALL]
    shown = "; ".join(
        f"{each['prompts']} prompts, seed {each['seed']}: {each['accuracy']['start']:.0%} at the start, "
        f"{each['accuracy_at_20']:.0%} at step 20, {each['accuracy']['last']:.0%} at the end, "
        + ("no collapse" if each["collapse_step"] is None else f"collapse step {each['collapse_step']}")
        for each in runs
        if each["accuracy_at_20"] is not None
    )
    agrees: Agreement = "yes" if len(safe) == len(runs) else "partly" if safe or better else "no"
    why = f"{len(runs) - len(safe)} of {len(runs)} runs collapse by the last step, {len(better)} are better at step 20"
    return Seen(shown, agrees, f"{why} by more than {100 * SMALL:.0f} points")
