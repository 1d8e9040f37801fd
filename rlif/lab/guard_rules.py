"""How well the guard did, against the best checkpoint in hindsight and simpler rules on the same evaluations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from rlif.lab.findings import TrialResult, course, select, series
from rlif.lab.plan import Trial
from rlif.training.options import TrainConfig


def lowest(values: dict[int, float]) -> int:
    """Return the first step with the smallest value."""
    return min(values, key=lambda step: values[step])


def drift(result: TrialResult) -> dict[int, float]:
    """Return the start model's NLL of the policy's samples plus the KL to it, nats a token."""
    nll, kl = series(result, "eval/base_nll"), series(result, "eval/kl")
    return {step: nll[step] + kl[step] for step in nll}


# Which step's policy to keep. None of them sees a gold answer.
RULES: dict[str, Callable[[TrialResult], int]] = {
    "guard": lambda result: result["guard_step"],
    "the start model's NLL + KL, lowest": lambda result: lowest(drift(result)),
    "the start model's NLL, lowest": lambda result: lowest(series(result, "eval/base_nll")),
    "agreement within groups, highest": lambda result: lowest(_negated(series(result, "eval/agreement"))),
    "entropy, lowest": lambda result: lowest(series(result, "eval/entropy")),
    "no guard: the last step": lambda result: max(series(result, "eval/accuracy")),
    "no training: the start model": lambda result: 0,
}


def rules_table(results: Sequence[TrialResult]) -> list[dict[str, Any]]:
    """For every rule: how far its choice is below the best checkpoint, mean and worst, over all internal trials."""
    table = []
    for name, rule in RULES.items():
        regret, gain = [], []
        for result in select(results):
            accuracy = series(result, "eval/accuracy")
            chosen = accuracy[rule(result)]
            regret.append(course(result).peak - chosen)
            gain.append(chosen - accuracy[0])
        table.append({"rule": name, "regret": fmean(regret), "worst": max(regret), "gain": fmean(gain)})
    return table


def guarded_against_start(results: Sequence[TrialResult]) -> list[dict[str, Any]]:
    """Test accuracy of each internal trial: the start model, the policy that the guard keeps, the last one."""
    return [
        {"start": each["accuracy"]["start"], "guarded": each["accuracy"]["guarded"], "last": each["accuracy"]["last"]}
        | {name: each[name] for name in ("ratio", "reward", "seed", "guard_step")}
        for each in select(results)
    ]


def late_choices(results: Sequence[TrialResult]) -> list[str]:
    """The trials whose guard found its best policy only after its patience was over: it would have stopped before."""
    late = []
    for result in results:
        stops = [
            step for step, falling in series(result, "guard/falling").items() if falling >= TrainConfig.guard_patience
        ]
        if stops and result["guard_step"] > stops[0]:
            late.append(Trial(result["seed"], result["ratio"], result["reward"]).name)
    return late


def _negated(values: dict[int, float]) -> dict[int, float]:
    return {step: -value for step, value in values.items()}
