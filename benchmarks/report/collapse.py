"""The tables of the suite `collapse`, and what it says of the paper's claim."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.report.markdown import notes, table
from benchmarks.report.seen import Agreement, Seen
from rlif.metrics.ranks import rank_correlation

# Rewards whose collapse steps stand in the table.
REWARDS = ("self_certainty", "token_entropy", "majority_vote")
LABELS = "verifiable"
# Of a rank correlation: what is a prediction, and what a hint of one.
STRONG, WEAK = 0.9, 0.5
# Points of accuracy below which a change counts as none, as in the lab.
SMALL = 0.03

Entry = dict[str, Any]


def collapse(results: dict[str, Any]) -> str:
    """Return the start models by when they collapse and what they gain, then trainings on few prompts."""
    starts, steps = start_models(results), results["settings"]["lab_steps"]
    rows = [
        [
            name,
            f"{found['entropy']:.3f}",
            *(step_text(found["steps"].get(reward, []), steps) for reward in REWARDS),
            f"{100 * found['gain']:+.1f}" if found["gain"] is not None else "",
            str(found["seeds"]),
        ]
        for name, found in starts.items()
    ]
    headings = ["start model", "entropy", *(f"collapse step, `{reward}`" for reward in REWARDS),
                "gain on right answers, points", "seeds of it"]  # fmt: skip
    correlations = ", ".join(
        f"{value:.2f} of `{reward}`" if value is not None else f"none of `{reward}`, on which no model collapses"
        for reward, value in ((reward, ordering(results, reward)) for reward in REWARDS)
    )
    told = (
        f"Collapse steps are means over the lab's seeds, of {steps} steps. Their rank correlation with the gain, over "
        f"{len([found for found in starts.values() if found['gain'] is not None])} models: {correlations}; of the "
        f"entropy at the start {ordering(results, None):.2f}."
    )
    few = few_prompts(results)
    missing = [f"{name}: {reason}" for name, reason in results["missing"].items()]
    return f"{table(headings, rows)}\n\n{told}\n\n{few}" + notes({}, missing, [])


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
    """Gather each start model's entropy, collapse steps by reward, and mean gain from right answers with its seeds."""
    found: dict[str, dict[str, Any]] = {}
    for each in results["entries"]:
        if each["kind"] == "few":
            continue
        model = found.setdefault(each["start"], {"entropy": each["entropy"], "steps": {}, "gains": []})
        if each["reward"] == LABELS:
            model["gains"].append(each["accuracy"]["last"] - each["accuracy"]["start"])
        else:
            model["steps"].setdefault(each["reward"], []).append(each["collapse_step"])
    for model in found.values():
        model["gain"] = statistics.fmean(model["gains"]) if model["gains"] else None
        model["seeds"] = len(model["gains"])
    return dict(sorted(found.items(), key=lambda item: -item[1]["entropy"]))


def ordering(results: dict[str, Any], reward: str | None) -> float | None:
    """Return the rank correlation over start models of the gain with the collapse step on a reward, or the entropy.

    A run that does not collapse counts as one that collapses after its end. None where no model collapses.
    """
    beyond = results["settings"]["lab_steps"] + 1
    models = [model for model in start_models(results).values() if model["gain"] is not None]
    if reward is None:
        return rank_correlation([model["entropy"] for model in models], [model["gain"] for model in models])
    models = [model for model in models if reward in model["steps"]]
    steps = [statistics.fmean(beyond if step is None else step for step in model["steps"][reward]) for model in models]
    if len(set(steps)) < 2:
        return None
    return rank_correlation(steps, [model["gain"] for model in models])


def step_text(steps: list[int | None], last: int) -> str:
    """Write the mean of collapse steps with their range; those that were not reached are beyond the last."""
    reached = [step for step in steps if step is not None]
    if not steps:
        return ""
    if len(reached) < len(steps):
        return f"> {last}" if not reached else f"{min(reached)} to > {last}"
    mean = f"{statistics.fmean(reached):.0f}"
    return mean if len(reached) == 1 else f"{mean} ({min(reached)} to {max(reached)})"


def seen(results: dict[str, Any]) -> Seen:
    """Does the collapse step order the start models by what right answers gain them?"""
    found = {reward: ordering(results, reward) for reward in REWARDS}
    entropy = ordering(results, None)
    assert entropy is not None
    certainty, majority = found["self_certainty"], found["majority_vote"]
    agrees: Agreement = "no"
    if certainty is not None:
        agrees = "yes" if certainty >= STRONG else "partly" if certainty >= WEAK else "no"
    models = len([model for model in start_models(results).values() if model["gain"] is not None])
    shown = "; ".join(
        f"`{reward}`: " + ("no model collapses" if value is None else f"rank correlation {value:.2f}")
        for reward, value in found.items()
    )
    why = f"{models} models, of which the entropy at the start says as much or more ({entropy:.2f})"
    if certainty is not None and certainty > entropy:
        why = f"{models} models, whose entropy at the start says less ({entropy:.2f})"
    if majority is None:
        why += "; on majority votes, the paper's reward, none collapses within the lab's steps"
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
