"""The steps of the suite `real-family` that train run each command once, and its table says what they found."""

import pytest

from benchmarks.report.real_training import trained
from benchmarks.runner import Options
from benchmarks.steps import kept_commands
from benchmarks.steps import real_training as suite
from benchmarks.steps.workload import SIZES, save_model


@pytest.mark.exhaustive
@pytest.mark.parametrize("names", [("few-prompts", "explain"), ("introspect",), ("length",), ("train-verify",)])
def test_every_command_is_run_and_shown(tmp_path, monkeypatch, names):
    monkeypatch.setattr(kept_commands, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(kept_commands, "COMMON", kept_commands.COMMON | {"chat": False, "max_completion_length": 3})
    save_model(SIZES["tiny"], tmp_path / "model")
    results = {"missing": {}, "entries": []}
    for step in suite.training_steps(Options(tmp_path, size="tiny", model=tmp_path / "model", device="cpu")):
        if step.label in names:
            step.run(results)
    entries = {entry["name"]: entry for entry in results["entries"]}
    assert tuple(entries) == names
    shown = trained(entries, results["settings"])
    assert shown.count("\n| `rlif ") == len(names)


def estimate(value, low, high):
    return {"value": value, "low": low, "high": high}


def test_the_table_has_a_row_for_each_command():
    few = {"processor_seconds": 90.0, "evaluations": [
        {"accuracy": 0.25, "consensus": 0.5, "parse_rate": 0.9, "kl": 0.0},
        {"accuracy": 0.3, "consensus": 0.6, "parse_rate": None, "kl": 0.0123},
    ], "steps": [{"reward": None}, {"reward": 0.25}, {"reward": 0.5}]}  # fmt: skip
    told = {
        "named": ["majority_vote", "verifiable"],
        "scores": {"majority_vote": estimate(0.6, 0.55, 0.65)},
        "kl": estimate(0.123, 0.1, 0.15),
        "told_apart": {"text": estimate(0.5, 0.4, 0.6)},
        "processor_seconds": 6.0,
    }
    nothing = estimate(None, None, None)
    turns = [estimate(0.2, 0.1, 0.3), estimate(0.3, 0.2, 0.4)]
    measures = {"right": turns, "majority": turns, "samples_majority": turns, "mended": [nothing, turns[1]],
                "kept": [nothing, nothing], "same": [nothing, turns[0]]}  # fmt: skip
    taught = {"collected": {"candidates_right": 0.125}, "models": {"start": measures}, "processor_seconds": 60.0}
    score = {"correlation": estimate(-0.5, -0.6, -0.4)}
    lengths = {
        "ranking": {"pairs": 17},
        "steps": 4,
        "length": {"scores": {"reward": score, "confidence": score}, "length_accuracy": {"both": turns[0]},
                   "num_prompts": 12, "num_generations": 4},
        "models": {"start model": {"accuracy": 0.2}, "tuned model": {"accuracy": 0.25}},
        "processor_seconds": 60.0,
    }  # fmt: skip
    none_asked = {"step": 1, "accuracy": 0.0, "verify/prompts": 0}
    asked = {"step": 2, "accuracy": 0.5, "verify/prompts": 2, "verify/parse_rate": 0.25, "verify/accuracy": 0.125,
             "verify/balanced_accuracy": 0.5, "verify/reward": -0.75}  # fmt: skip
    entries = {
        "few-prompts": few,
        "explain": told,
        "introspect": taught,
        "length": lengths,
        "train-verify": {"steps": [none_asked, asked], "processor_seconds": 60.0},
    }
    shown = trained(entries, suite.SIZES["full"])
    assert (
        "reward step by step 0.25, 0.50; of 24 held-out samples right 25% to 30%, as the start's majority 50% to"
        in shown
    )
    assert "KL 0.012 nats a token | 1.5 |" in shown
    assert "named is `majority_vote`; preferred: `majority_vote` 60% (55% to 65%); KL 0.12 (0.10 to 0.15) nats" in shown
    assert "told apart by the text in 50% (40% to 60%)" in shown
    assert "start: first attempt 20% (10% to 30%) right" in shown
    assert "of second turns right after a wrong one 30% (20% to 40%), the same answer 20% (10% to 30%)" in shown
    assert "17 pairs of 4 prompts, 4 steps, 12 x 4 held-out completions | length accuracy 20% (10% to 30%)" in shown
    assert "correlation with length of the confidence -0.50 (-0.60 to -0.40)" in shown
    assert "2 of them asked about, 8 times each | step by step: stated 25%; the very rating 12%" in shown
    assert "25% of the solutions right" in shown


def test_a_run_without_right_solutions_verifies_none():
    entries = {"train-verify": {"steps": [{"accuracy": 0.0, "verify/prompts": 0}], "processor_seconds": 60.0}}
    assert "no step had a right solution and one that is not" in trained(entries, suite.SIZES["full"])
    assert trained({}, {}) == ""
