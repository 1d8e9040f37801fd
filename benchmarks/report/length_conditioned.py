"""The table of the suite `length-conditioned`."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.report.markdown import notes, table
from benchmarks.report.seen import Agreement, Seen, in_points, with_interval
from benchmarks.report.verify import spread

KINDS = ("matched", "shorter", "longer")
VARIANTS = {"plain": "pairs", "conditioned": "pairs and prompts", "balanced": "pairs, balanced"}
# A loss of accuracy that counts as none.
LOSS = 0.01
NAMES = {"reward_model": "reward model", "dpo": "DPO"}


def length_conditioned(results: dict[str, Any]) -> str:
    """Return a row for the confidence that ranked, and for each way of learning from it: means and ranges of seeds."""
    settings = results["settings"]
    samples = [each for each in results["entries"] if not each["objective"]]
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for each in results["entries"]:
        if each["objective"]:
            runs.setdefault((each["objective"], each["variant"]), []).append(each)
    # What does not hang on the training.
    first = next(iter(runs.values()), [])
    rows = [["log-probability, which preferred", "", "", *_cells([each["scores"]["confidence"] for each in first]), ""]]
    for (objective, variant), found in runs.items():
        kind = "balanced" if variant == "balanced" else "plain"
        rows.append(
            [
                NAMES[objective],
                VARIANTS[variant],
                spread([each["longer_chosen"][kind] for each in samples], ".0%"),
                *_cells([each["scores"]["reward"] for each in found]),
                spread([each["length_accuracy"]["both"]["value"] for each in found], ".0%"),
            ]
        )
    headings = ["score", "learned from", "longer one chosen", "correlation with length", "among equally right ones",
                "right one preferred, matched", "where it is shorter", "where it is longer",
                "length accuracy"]  # fmt: skip
    right = spread([each["right"]["value"] for each in first], ".2f")
    pairs = statistics.fmean(each["pairs"]["plain"] for each in samples)
    told = (
        f"Means over {len(samples)} seeds with their range, on {settings['eval_generations']} completions of each of "
        f"{settings['held_out']} held-out problems, after {settings['epochs']} epochs of {pairs:.0f} pairs. *Longer "
        "one chosen* is a share of pairs of unlike length. A right and a wrong completion are matched if they differ "
        f"by at most a twentieth. Being right correlates with length by {right}."
    )
    missing = [f"{name}: {reason}" for name, reason in results["missing"].items()]
    return f"{table(headings, rows)}\n\n{told}" + notes({}, missing, [])


def _cells(scores: list[dict[str, Any]]) -> list[str]:
    return [
        *(
            spread([each[name]["value"] for each in scores], ".2f")
            for name in ("correlation", "correlation_equally_right")
        ),
        *(spread([each["accuracy"][kind]["value"] for each in scores], ".0%") for kind in KINDS),
    ]


def seen(results: dict[str, Any]) -> Seen:
    """Is the correlation with length halved, at no loss on pairs of the same length?"""
    shown, halved, kept = [], [], []
    for objective in NAMES:
        plain, conditioned = (
            [
                each["scores"]["reward"]
                for each in results["entries"]
                if (each["objective"], each.get("variant")) == (objective, variant)
            ]
            for variant in ("plain", "conditioned")
        )
        before, after = ([abs(each["correlation"]["value"]) for each in runs] for runs in (plain, conditioned))
        loss = [
            ours["accuracy"]["matched"]["value"] - theirs["accuracy"]["matched"]["value"]
            for theirs, ours in zip(plain, conditioned, strict=True)
        ]
        halved.append(statistics.fmean(after) <= statistics.fmean(before) / 2)
        kept.append(statistics.fmean(loss) >= -LOSS)
        shown.append(
            f"{NAMES[objective]}: correlation {with_interval(after, '.2f')} against {with_interval(before, '.2f')}, "
            f"matched pairs {in_points(loss)}"
        )
    agrees: Agreement = "yes" if all(halved) and all(kept) else "partly" if any(halved) else "no"
    wanting = ([] if all(halved) else ["the correlation is not halved everywhere"]) + (
        [] if all(kept) else ["matched pairs suffer"]
    )
    return Seen("; ".join(shown), agrees, " and ".join(wanting) or "length cannot win where the completion is the same")
