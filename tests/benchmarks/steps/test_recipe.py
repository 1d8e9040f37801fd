"""The suite `recipe` trains by the recipe, and says in words what was seen."""

import json

import pytest

from benchmarks.report import charts
from benchmarks.report.recipe import recipe
from benchmarks.runner import Options
from benchmarks.steps import recipe as suite
from benchmarks.steps.workload import SIZES, save_model


@pytest.mark.exhaustive
def test_a_run_that_is_finished_is_not_trained_again(tmp_path, monkeypatch):
    monkeypatch.setattr(suite, "RUNS", tmp_path / "runs")
    save_model(SIZES["tiny"], tmp_path / "model")
    options = Options(tmp_path, size="tiny", model=tmp_path / "model")
    results = {"missing": {}, "entries": []}
    suite.add_diagnosis(options, results)
    assert list(results["diagnosis"]["rewards"]) == list(suite.REWARDS)
    for _ in range(2):
        suite.add_run(options, "self_certainty", 0, results)
    first, again = results["entries"]
    assert first == again
    assert len(list((tmp_path / "runs").iterdir())) == 1
    monkeypatch.setattr(suite, "TINY", suite.TINY | {"max_steps": 4, "eval_steps": 4})
    suite.add_run(options, "self_certainty", 0, results)
    assert results["entries"][-1]["evaluations"][-1]["step"] == 4  # another recipe has runs of its own
    assert [row["step"] for row in first["evaluations"]] == [0, 2]
    assert "trained on" in recipe(results)


def made_up(reward, seed, accuracies):
    evaluations = [
        {"step": 10 * place, "eval/accuracy": value, "eval/entropy": 1.0 - place / 10, "eval/completion_length": 40.0}
        for place, value in enumerate(accuracies)
    ]
    return {"reward": reward, "seed": seed, "seconds": 240.0, "steps": [], "evaluations": evaluations}


def test_a_change_is_one_where_chance_alone_would_not_make_it(tmp_path):
    entries = [
        made_up("self_certainty", 0, (0.2, 0.3, 0.1)),
        made_up("self_certainty", 1, (0.2, 0.2, 0.1)),
        made_up("verifiable", 0, (0.2, 0.25, 0.28)),
        made_up("majority_vote", 0, (0.2, 0.2, 0.22)),
    ]
    options = {"eval_data": "word_problems:level=1,n=100,split=test", "eval_generations": 4}
    diagnosis = {"num_prompts": 9, "rewards": {"self_certainty": {"outlook": "risk of collapse"}}}
    results = {
        "suite": "recipe", "diagnosis": diagnosis,
        "date": "2026-01-02", "model": "Small", "recipe": options, "entries": entries, "missing": {},
        "machine": {"processor": "P", "gpu": None, "cores": 2, "versions": {"torch": "2"}}, "size": "full",
    }  # fmt: skip
    text = recipe(results)
    assert (
        "| `self_certainty` | 2 | risk of collapse | 20.0% to 10.0% | 25.0% | 1.00 to 0.80 | 40 to 40 | 4.0 |" in text
    )
    # 1.96 sqrt(0.2 * 0.8 / n + p (1 - p) / (n * seeds)), n = 400: every seed measures the start on the same samples.
    assert "`self_certainty`: accuracy fell (-10.0 points, 95% of chance within ±4.4)." in text
    assert "`verifiable`: accuracy rose (+8.0 points, 95% of chance within ±5.9)." in text
    assert "`majority_vote`: no change beyond chance (+2.0 points, 95% of chance within ±5.6)." in text
    source = tmp_path / "machine-2026-01-02-recipe.json"
    source.write_text(json.dumps(results))
    charts.draw_charts(source, tmp_path)
    assert (tmp_path / "charts" / "machine-recipe.png").is_file()
    assert charts.stale_charts(source, tmp_path) == []
