"""The suite `collapse` reads the lab's runs, adds those that it lacks, and its tables say what they come to."""

import dataclasses
import json

import pytest

from benchmarks.report.collapse import collapse, ordering, seen, seen_few
from benchmarks.runner import Options
from benchmarks.steps import collapse as suite
from rlif.lab.options import LabConfig
from rlif.tasks.arithmetic import ArithmeticConfig
from rlif.tasks.options import BaseModelConfig, InstructModelConfig

TASK = ArithmeticConfig(digits=2)
BASE = BaseModelConfig(task=TASK, hidden_size=64, num_hidden_layers=1, pretraining_steps=40, pretraining_batch_size=16)


def made(start, entropy, steps, gain):
    """Return runs of a start model: collapse steps on self-certainty, and a gain from right answers."""
    common = {"kind": "lab", "start": start, "seed": 0, "entropy": entropy, "accuracy_at_20": 0.6, "kl": 0.1}
    accuracy = {"start": 0.5, "best": 0.6, "last": 0.1}
    return [common | {"reward": "self_certainty", "collapse_step": step, "accuracy": accuracy} for step in steps] + [
        common | {"reward": "majority_vote", "collapse_step": None, "accuracy": accuracy},
        common | {"reward": "verifiable", "collapse_step": None, "accuracy": accuracy | {"last": 0.5 + gain}},
    ]


def results(*models):
    settings = {"lab_steps": 80, "prompts_per_step": 32}
    return {"entries": [run for model in models for run in made(*model)], "settings": settings, "missing": {}}


def test_models_in_the_order_of_their_gains_have_a_correlation_of_one_and_a_run_that_lasts_comes_last():
    found = results(("base", 0.3, (50, None), 0.4), ("mix-0.5", 0.2, (40, 44), 0.2), ("instruct", 0.1, (20, 20), 0.1))
    assert ordering(found, "self_certainty") == pytest.approx(1.0)
    assert ordering(found, "majority_vote") is None
    assert seen(found).agrees == "yes"
    text = collapse(found)
    assert "| base | 0.300 | 50 to > 80 |  | > 80 | +40.0 | 1 |" in text
    assert "none of `majority_vote`, on which no model collapses" in text


def test_models_in_another_order_than_their_gains_are_an_honest_no():
    found = results(("base", 0.3, (20, 20), 0.4), ("mix-0.5", 0.2, (40, 44), 0.2), ("instruct", 0.1, (60, 60), 0.1))
    assert seen(found).agrees == "no"
    assert "whose entropy" not in seen(found).why


@pytest.mark.parametrize(("steps", "agrees"), [((None, None), "yes"), ((None, 60), "partly"), ((60, 60), "no")])
def test_few_prompts_are_safe_if_no_run_collapses(steps, agrees):
    few = {"kind": "few", "start": "base", "reward": "self_certainty", "seed": 0, "entropy": 0.3, "kl": 0.1,
           "accuracy": {"start": 0.5, "best": 0.5, "last": 0.4}, "accuracy_at_20": 0.5}  # fmt: skip
    found = results(("base", 0.3, (50,), 0.4))
    found["entries"] += [
        few | {"prompts": count, "collapse_step": step} for count, step in zip((32, 128), steps, strict=True)
    ]
    assert seen_few(found).agrees == agrees
    assert "| 2560 | 0 |" in collapse(found)  # the lab's, of which no prompt comes twice


@pytest.mark.slow
def test_the_lab_is_read_and_what_it_lacks_is_trained_once(tmp_path, monkeypatch):
    monkeypatch.setenv("RLIF_CACHE_DIR", str(tmp_path / "cache"))
    config = LabConfig(base=BASE, instruct=InstructModelConfig(base=BASE, task=TASK, steps=5))
    monkeypatch.setattr(suite, "LabConfig", lambda: dataclasses.replace(config))
    monkeypatch.setattr(suite, "RUNS", tmp_path / "runs")
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
