"""The guard's decisions in words are those that the guard takes."""

from __future__ import annotations

import random

import pytest

from made_runs import RISE_AND_FALL, evaluation
from rlif.reporting.decisions import guard_report
from rlif.training.guard import Guard


def replayed(rows: list[dict[str, float]], patience: int) -> tuple[Guard, int | None]:
    """A guard that has seen the evaluations, and the first step at which it would stop."""
    guard, stop = Guard(patience), None
    for row in rows:
        guard.observe(int(row["step"]), {name.removeprefix("eval/"): value for name, value in row.items()})
        if stop is None and guard.should_stop:
            stop = int(row["step"])
    return guard, stop


def test_a_rise_and_a_fall_are_told_step_by_step() -> None:
    found = guard_report(RISE_AND_FALL, patience=2)
    assert [each.verdict for each in found.decisions] == ["start", "best", "within chance", "below", "stop", "stop"]
    assert (found.best_step, found.would_stop) == (10, 40)
    start, best, chance, below, stop, after = found.decisions
    assert start.words == "Completions that give the start model's majority answer: 50.0%, ± 2.5 points."
    assert best.title == "The best so far: its policy is kept"
    assert chance.words.endswith("The best, of step 10, has 70.0%, 1.0 points more; chance allows 6.5 points.")
    assert below.title == "Below the best (1 of 2 in a row)"
    assert below.words.endswith("has 70.0%, 30.0 points more; chance allows 6.7 points.")
    assert below.warning.startswith("the policy has probably begun to fall")
    assert stop.title == "Below the best: patience is over (2 of 2 in a row); the policy has collapsed"
    assert stop.warning is None
    assert after.title == "Below the best: patience is over (3 in a row)"
    assert "of which there is one to 90% of the guard's prompts" in found.goes_by


def test_a_collapse_is_told_once_with_its_step() -> None:
    rows = [evaluation(10 * place, share) for place, share in enumerate((0.5, 0.7, 0.6, 0.1, 0.0))]
    found = guard_report(rows, patience=5)
    assert found.collapse == Guard.of_rows(rows).collapse_words()
    assert "its collapse step is 30" in found.collapse
    assert [each.step for each in found.decisions if each.title.endswith("; the policy has collapsed")] == [30]


def test_a_degenerate_policy_is_told_to_be_however_high_its_score() -> None:
    rows = [evaluation(0, 0.5), evaluation(10, 0.9, repetition=0.6)]
    found = guard_report(rows, patience=2)
    assert found.best_step == 0
    assert found.decisions[1].title == "Degenerate (1 of 2 in a row)"
    assert found.decisions[1].words.startswith("Completions repeat themselves (repetition 0.6, at the start 0.01).")


def test_without_majority_answers_it_goes_by_the_drift() -> None:
    rows = [
        evaluation(10 * place, 0.5, consensus_prompts=0.1, base_nll=nll) for place, nll in enumerate((0.4, 0.3, 0.6))
    ]
    found = guard_report(rows, patience=1)
    assert [each.verdict for each in found.decisions] == ["start", "best", "stop"]
    assert "plus KL: 0.310 nats a token, ± 0.010 nats" in found.decisions[1].words
    assert "The start model has a majority answer to 10% of its prompts only." in found.goes_by


def test_a_run_that_learns_from_gold_answers_is_told_by_them() -> None:
    courses = {"accuracy": (0.8, 0.9, 0.7), "consensus": (0.98, 0.9, 0.98)}
    rows = [
        evaluation(10 * place, consensus, gold_prompts=0.75, num_gold=400, accuracy=accuracy)
        for place, (accuracy, consensus) in enumerate(zip(*courses.values(), strict=True))
    ]
    found = guard_report(rows, patience=1)
    assert [each.verdict for each in found.decisions] == ["start", "best", "stop"]
    assert found.decisions[1].words == "Completions that give the gold answer: 90.0%, ± 1.5 points."
    assert found.goes_by.endswith("give the gold answer, which 75% of the held-out prompts have.")


@pytest.mark.parametrize("seed", range(20))
def test_whatever_the_evaluations_the_words_and_the_guard_agree(seed: int) -> None:
    draw = random.Random(seed)
    rows = [
        evaluation(step, draw.random(), repetition=draw.choice([0.0, 0.0, 0.0, 0.5]), eos_rate=draw.choice([1.0, 0.9]))
        for step in range(0, 120, 10)
    ]
    patience = draw.randint(1, 3)
    guard, stop = replayed(rows, patience)
    found = guard_report(rows, patience)
    assert found.best_step == (guard.best and guard.best.step)
    assert found.would_stop == stop
    assert [each.step for each in found.decisions if each.verdict in ("start", "best")][-1:] == (
        [guard.best.step] if guard.best else []
    )
    assert next((each.step for each in found.decisions if each.verdict == "stop"), None) == stop


def test_a_run_without_a_guard_has_no_decisions_and_a_damaged_one_says_what_it_lacks() -> None:
    assert guard_report([{"step": 1, "reward": 2.0}], patience=2) is None
    unguarded = {name: value for name, value in evaluation(0, 0.5).items() if name != "guard/falling"}
    assert guard_report([unguarded], patience=2) is None
    damaged = {name: value for name, value in evaluation(10, 0.5).items() if name != "eval/kl"}
    with pytest.raises(ValueError, match="the evaluation of step 10 lacks what the guard goes by: 'eos_rate'"):
        guard_report([{"step": 10, "guard/falling": 0.0, "eval/consensus_prompts": 0.0, "eval/base_nll": 1.0,
                       "eval/kl": 0.0, "eval/base_nll_error": 0.0}], patience=2)  # fmt: skip
    with pytest.raises(ValueError, match="'kl'"):
        guard_report([damaged | {"eval/consensus_prompts": 0.0}], patience=2)
