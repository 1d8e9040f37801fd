"""The suite `real-self-feedback` runs every stage by the recipe, and says what was measured before and after."""

import pytest

from benchmarks.report.tables import real_self_feedback
from benchmarks.runner import Options
from benchmarks.steps import real_self_feedback as suite
from benchmarks.steps.workload import SIZES, save_model


@pytest.mark.slow
def test_a_seed_that_is_finished_is_not_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(suite, "RUNS", tmp_path / "runs")
    save_model(SIZES["tiny"], tmp_path / "model")
    options = Options(tmp_path, size="tiny", model=tmp_path / "model")
    results = {"missing": {}, "entries": []}
    for _ in range(2):
        suite.add_seed(options, 0, results)
    first, again = results["entries"]
    assert first == again
    assert set(first["models"]) == {"start model", "tuned model"}
    assert first["ranking"]["pairs"] > 0
    assert "| 0 | " in real_self_feedback(results)


def test_a_row_has_what_was_before_and_after():
    confidence = "probability_disparity"
    before = {"accuracy": 0.2, "accuracy_se": 0.03, "answered": 0.8} | {
        f"{confidence}/{name}": 0.5 for name in ("auroc", "ece", "brier")
    }
    after = before | {"accuracy": 0.25, "answered": 0.5, f"{confidence}/auroc": None, f"{confidence}/ece": 0.4}
    entry = {
        "seed": 3, "seconds": 90.0, "confidence": confidence, "models": {"start model": before, "tuned model": after},
        "ranking": {"pairs": 12, "unanswered": 3, "pair_accuracy": 0.75, "judged": 4},
    }  # fmt: skip
    text = real_self_feedback({"model": "Small", "entries": [entry], "missing": {}})
    assert (
        "| 3 | 12 | 25% | 75% of 4 | 20.0% ± 3.0% | 25.0% ± 3.0% | 80% to 50% | 25% to 50% "
        "| 0.50 to  | 0.50 to 0.40 | 0.50 to 0.50 | 1.5 |" in text
    )
