"""The suite `collapse` reads the lab's runs, adds those that it lacks, and its tables say what they come to."""

import json

import pytest

from benchmarks.report import collapse as drawn
from benchmarks.report.collapse import ordering, seen, seen_few
from benchmarks.runner import Options
from benchmarks.steps import collapse as suite
from tiny_lab import use_tiny_lab


def made(start, entropy, steps, gain):
    """Return runs of a start model: collapse steps on self-certainty, and a gain from majority votes."""
    common = {"kind": "lab", "start": start, "seed": 0, "entropy": entropy, "accuracy_at_20": 0.6, "kl": 0.1}
    accuracy = {"start": 0.5, "best": 0.6, "last": 0.1}
    return [
        *(common | {"reward": "self_certainty", "collapse_step": step, "accuracy": accuracy} for step in steps),
        common | {"reward": "majority_vote", "collapse_step": None, "accuracy": accuracy | {"last": 0.5 + gain}},
    ]


def results(*models):
    settings = {"lab_steps": 80, "prompts_per_step": 32}
    return {"entries": [run for model in models for run in made(*model)], "settings": settings, "missing": {}}


@pytest.mark.parametrize(
    ("steps", "correlation", "agrees"),
    [
        (((50, None), (40, 44), (20, 20)), 1.0, "yes"),
        (((50, None), (20, 20), (40, 44)), 0.5, "partly"),
        (((20, 20), (40, 44), (60, 60)), -1.0, "no"),
    ],
)
def test_models_are_ordered_by_when_they_collapse_and_a_run_that_lasts_comes_last(
    steps, correlation, agrees, monkeypatch
):
    found = results(("base", 0.3, steps[0], 0.4), ("mix", 0.2, steps[1], 0.2), ("instruct", 0.1, steps[2], 0.1))
    assert ordering(found, "self_certainty", "majority_vote") == pytest.approx(correlation)
    assert ordering(found, None, "majority_vote") == pytest.approx(1.0)
    assert ordering(found, "majority_vote", "majority_vote") is None
    monkeypatch.setattr(drawn, "lab_entries", lambda lab: found["entries"])
    assert seen({"size": {"max_steps": 80}}).agrees == agrees


def test_the_labs_table_has_a_row_for_each_start_model_and_the_order_of_no_fewer_than_three():
    text = drawn.lab_collapse(json.loads(suite.LAB.read_text()))
    assert text.count("\n| base | ") == text.count("\n| instruct | ") == 1
    assert "the gain by majority votes with the collapse step over 5 models" in text
    assert "the gain by right answers with" not in text  # the lab has two models with such runs
    assert "of `majority_vote` none, since no model collapses" in text


@pytest.mark.parametrize(("steps", "agrees"), [((None, None), "yes"), ((None, 60), "partly"), ((60, 60), "no")])
def test_few_prompts_are_safe_if_no_run_collapses(steps, agrees):
    few = {"kind": "few", "start": "base", "reward": "self_certainty", "seed": 0, "entropy": 0.3, "kl": 0.1,
           "accuracy": {"start": 0.5, "best": 0.5, "last": 0.4}, "accuracy_at_20": 0.5}  # fmt: skip
    found = results(("base", 0.3, (50,), 0.4))
    found["entries"] += [
        few | {"prompts": count, "collapse_step": step} for count, step in zip((32, 128), steps, strict=True)
    ]
    assert seen_few(found).agrees == agrees
    assert "| 2560 | 0 |" in drawn.collapse(found)  # the lab's, of which no prompt comes twice


@pytest.mark.slow
def test_the_lab_is_read_and_what_it_lacks_is_trained_once(tmp_path, monkeypatch):
    use_tiny_lab(suite, tmp_path, monkeypatch)
    options, found = Options(tmp_path, size="tiny", repeats=1), {"missing": {}, "entries": []}
    suite.add_lab(options, found)
    lab = len(found["entries"])
    assert lab == sum(trial["reward"] != "sequence_logprob" for trial in json.loads(suite.LAB.read_text())["trials"])
    suite.add_gain(options, 0.5, 0, found)
    suite.add_few(options, 1, 0, found)
    assert [each["start"] for each in found["entries"][lab:]] == ["mix-0.5", "base"]
    (train,) = (tmp_path / "runs").rglob("few-1-seed-0/data/train-0.jsonl")
    assert len(train.read_text().splitlines()) == 1
    monkeypatch.setattr(suite, "run_trial", None)
    again = {"missing": {}, "entries": []}
    suite.add_gain(options, 0.5, 0, again)
    assert again["entries"][0] == found["entries"][lab]
