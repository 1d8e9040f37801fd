"""The suite `real-family` runs each command once, and its tables say what they found."""

import pytest

from benchmarks.report.real_family import real_family
from benchmarks.runner import Options
from benchmarks.steps import kept_commands
from benchmarks.steps import real_family as suite
from benchmarks.steps.workload import SIZES, save_model


@pytest.mark.exhaustive
def test_a_step_that_is_finished_is_not_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(kept_commands, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(kept_commands, "COMMON", kept_commands.COMMON | {"chat": False, "max_completion_length": 3})
    save_model(SIZES["tiny"], tmp_path / "model")
    place = kept_commands.Place(Options(tmp_path, size="tiny", model=tmp_path / "model"), suite.SIZES["tiny"])
    results = {"missing": {}, "entries": []}
    for _ in range(2):
        kept_commands.add(place, "samples", suite.sample, results)
    first, again = results["entries"]
    assert first == again
    assert first["processor_seconds"] > 0


def estimate(value, low, high):
    return {"value": value, "low": low, "high": high}


def test_the_tables_have_what_each_command_found():
    tried = {"first": estimate(0.2, 0.1, 0.3), "precision": estimate(0.6, 0.4, 0.8), "gain": estimate(0.4, 0.2, 0.6),
             "recall": estimate(0.5, 0.3, 0.7), "accuracy": estimate(0.3, 0.2, 0.4), "ends": {"accepted": 0.25},
             "attempts": estimate(2.6, 2.4, 2.8), "processor_seconds": 90.0}  # fmt: skip
    gold = {"auroc": 0.78, "thresholds": [0.2, 0.3], "accepted": [0.4, 0.25], "precision": [0.3, 0.55]}
    majority = {"auroc": 0.6, "thresholds": [0.3], "accepted": [0.9], "precision": [0.5]}
    fitted = {
        "gold": {"held_out": gold, "completions": 240, "accepted_by_the_labels": 0.2},
        "majority": {"held_out": majority, "completions": 240, "accepted_by_the_labels": 0.5},
    }
    entries = [
        {"name": "samples", "processor_seconds": 1.0},
        {"name": "discriminators", "discriminators": fitted},
        {"name": "retry", "threshold": 0.4, **tried},
        {"name": "stated-confidence", "completions": 50, "finished": 40, "answer_tag": 5, "confidence_tag": 1,
         "well_formed": 0},
        {"name": "verify", "verifications": 64, "finished": 48, "rated": 16},
    ]  # fmt: skip
    settings = suite.SIZES["full"] | kept_commands.COMMON
    text = real_family({"model": "Small", "entries": entries, "settings": settings, "missing": {"more": "it failed"}})
    assert "of the 240 stated answers of 4 samples of each of 64 problems" in text
    assert "In all 20% are right (AUROC 0.78) and 50% are the majority's (AUROC 0.60):" in text
    assert "| 0.2 | 40% | 30% | 0% |  |\n| 0.3 | 25% | 55% | 90% | 50% |\n| 0.4 | 0% |  | 0% |  |" in text
    assert (
        "| 20% (10% to 30%) | 60% (40% to 80%) | 40% (20% to 60%) | 50% (30% to 70%) | 30% (20% to 40%) | 25% | 2.6 "
        "| 1.5 |" in text
    )
    assert "| confidence in words: `<answer>` | 50 | 80% | 10% |" in text
    assert "| confidence in words: the whole form | 50 | 80% | 0% |" in text
    assert "| verification: a rating | 64 | 75% | 25% |" in text
    assert "Not run: more: it failed." in text


def test_what_was_not_run_yet_is_left_out():
    text = real_family({"model": "Small", "entries": [], "settings": kept_commands.COMMON, "missing": {}})
    assert text == "Small, word problems of level 1 at temperature 0.6, float32."
