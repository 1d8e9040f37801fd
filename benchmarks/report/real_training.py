"""The table of the steps of the suite `real-family` that train: a row for each command."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean
from typing import Any

from benchmarks.report.explain import interval
from benchmarks.report.markdown import table

Entry = dict[str, Any]
# Scores of an explanation.
SHOWN = ("semantic_entropy", "majority_vote", "verifiable", "self_certainty", "length")


def trained(entries: dict[str, Entry], settings: dict[str, Any]) -> str:
    """What each command did, and what it found; nothing where none was run."""
    rows = [
        [command, *row(entries[name], settings[name]), f"{entries[name]['processor_seconds'] / 60:.1f}"]
        for name, (command, row) in ROWS.items()
        if name in entries
    ]
    if not rows:
        return ""
    headings = ["command", "on", "found", "minutes"]
    return f"Commands that train; 95% intervals over problems, minutes of one core:\n\n{table(headings, rows)}"


def few_prompts(entry: Entry, size: dict[str, Any]) -> list[str]:
    first, last = (entry["evaluations"][place] for place in (0, -1))
    changes = [
        f"{name} {share(first[key])} to {share(last[key])}"
        for name, key in (("right", "accuracy"), ("as the start's majority", "consensus"), ("stated", "parse_rate"))
        if last[key] is not None
    ]
    rewards = [f"{step['reward']:.2f}" for step in entry["steps"] if step["reward"] is not None]
    found = (
        f"reward step by step {', '.join(rewards)}; of {4 * size['held_out']} held-out samples {', '.join(changes)}; "
        f"KL {last['kl']:.3f} nats a token"
    )
    on = f"{size['prompts']} prompts, {size['max_steps']} steps of {size['prompts_per_step']} x "
    return [f"{on}{size['num_generations']} completions", found]


def explained(entry: Entry, size: dict[str, Any]) -> list[str]:
    scores = [f"`{name}` {interval(entry['scores'][name])}" for name in SHOWN if name in entry["scores"]]
    named = f"`{entry['named'][0]}`" if entry["named"] else "nothing"
    apart = entry["told_apart"].get("text")
    told = f"; told apart by the text in {interval(apart)}" if apart else ""
    return [
        f"the start and the result of that run, {size['prompts']} held-out problems, {size['num_generations']} "
        "completions of each model",
        f"named is {named}; preferred: {', '.join(scores)}; KL {interval(entry['kl'], '.2f')} nats a completion{told}",
    ]


def introspected(entry: Entry, size: dict[str, Any]) -> list[str]:
    last, collected = size["turns"], entry["collected"]
    said = []
    for name, measures in entry["models"].items():
        second = [f"{words} {told}" for words, key in SECOND if (told := interval(measures[key][1]))]
        said.append(
            f"{name}: first attempt {interval(measures['right'][0])} right, majority of {last} turns "
            f"{interval(measures['majority'][-1])}, of {last} samples {interval(measures['samples_majority'][-1])}; of "
            f"second turns {', '.join(second)}"
        )
    on = (
        f"{size['prompts']} prompts with {size['num_candidates']} candidates, one iteration, {size['held_out']} "
        f"held-out problems; {share(collected['candidates_right'])} of the second turns' candidates right"
    )
    return [on, "; ".join(said)]


SECOND = (("right after a wrong one", "mended"), ("after a right one", "kept"), ("the same answer", "same"))


def with_lengths(entry: Entry, size: dict[str, Any]) -> list[str]:
    length, ranking = entry["length"], entry["ranking"]
    before, after = (entry["models"][f"{which} model"] for which in ("start", "tuned"))
    on = (
        f"{ranking['pairs']} pairs of {size['prompts']} prompts, {entry['steps']} steps, {length['num_prompts']} x "
        f"{length['num_generations']} held-out completions"
    )
    correlations = [interval(length["scores"][name]["correlation"], ".2f") for name in ("confidence", "reward")]
    found = (
        f"length accuracy {interval(length['length_accuracy']['both'])}; correlation with length of the confidence "
        f"{correlations[0]}, of the learned reward {correlations[1]}; right {share(before['accuracy'])} to "
        f"{share(after['accuracy'])}"
    )
    return [on, found]


def verified(entry: Entry, size: dict[str, Any]) -> list[str]:
    steps = [step for step in entry["steps"] if step["verify/prompts"]]
    asked = int(sum(step["verify/prompts"] for step in steps))
    on = (
        f"{size['max_steps']} steps of {size['prompts_per_step']} x {size['num_generations']} solutions; {asked} of "
        f"them asked about, {size['num_generations']} times each"
    )
    if not steps:
        return [on, "no step had a right solution and one that is not"]
    found = [
        f"{words} {', '.join('-' if step[key] is None else f'{step[key]:{form}}' for step in steps)}"
        for words, key, form in (
            ("stated", "verify/parse_rate", ".0%"),
            ("the very rating", "verify/accuracy", ".0%"),
            ("balanced accuracy", "verify/balanced_accuracy", ".0%"),
            ("reward", "verify/reward", ".2f"),
        )
    ]
    solved = fmean(step["accuracy"] for step in entry["steps"])
    return [on, f"step by step: {'; '.join(found)}; {share(solved)} of the solutions right"]


def share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


Row = Callable[[Entry, dict[str, Any]], list[str]]
# By the name of the step: the command, and what there is to say in its row.
ROWS: dict[str, tuple[str, Row]] = {
    "few-prompts": ("`rlif train` by `few-prompts.yaml`", few_prompts),
    "explain": ("`rlif explain`", explained),
    "introspect": ("`rlif introspect`", introspected),
    "length": ("`rlif self-feedback --length-conditioned`", with_lengths),
    "train-verify": ("`rlif train --verify`", verified),
}
