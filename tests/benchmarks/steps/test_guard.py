"""The suite `guard` shows one run to a guard by gold answers and to one by majorities, and says what each keeps."""

import json

import pytest

from benchmarks.report.guard import RIGHT, VERIFY
from benchmarks.report.guard import guard as drawn
from benchmarks.runner import Options
from benchmarks.steps import guard as suite
from tiny_lab import use_tiny_lab

SETTINGS = {"max_steps": 80, "eval_steps": 10, "test_prompts": 512}


def evaluation(step, accuracy, consensus):
    metrics = {"accuracy": accuracy, "gold_prompts": 0.6, "num_gold": 800, "consensus": consensus, "num_compared": 600,
               "consensus_prompts": 1.0, "eos_rate": 1.0, "parse_rate": 1.0, "repetition": 0.0,
               "completion_length": 30.0, "base_nll": 0.1, "kl": 0.0, "base_nll_error": 0.01}  # fmt: skip
    return {"step": step} | {f"eval/{name}": value for name, value in metrics.items()}


def test_what_contradicts_the_start_model_is_a_fall_to_its_majorities_and_none_to_gold_answers():
    rows = [evaluation(0, 0.8, 0.98), evaluation(10, 0.9, 0.85), evaluation(20, 0.97, 0.83)]
    gold, majority = suite.seen_by(rows), suite.seen_by([suite.without_gold(row) for row in rows])
    assert gold == {"step": 20, "warning": None, "warned_at": None}
    assert (majority["step"], majority["warned_at"]) == (0, 10)
    assert "85% of completions give the start model's majority answer" in majority["warning"]


def made(seed, kept):
    guards = {"gold": {"step": 80, "warning": None}, "majority": {"step": kept, "warning": "the policy has fallen"}}
    accuracy = {"0": 0.8, str(kept): 0.82, "80": 0.97 + 0.01 * seed}
    return {"run": RIGHT, "seed": seed, "guards": guards, "accuracy": accuracy, "last_step": 80, "verifying": None}


def test_the_table_has_what_each_keeps_and_what_verification_learnt():
    verifying = {"balanced_accuracy": 0.49, "frac_reward_zero_std": 0.93, "parse_rate": 1.0}
    entries = [made(0, 10), made(1, 20), made(0, 10) | {"run": VERIFY, "verifying": verifying}]
    text = drawn({"entries": entries, "settings": SETTINGS, "missing": {}})
    assert "| the start model's majorities | 10 to 20 | 82.0% (82.0% to 82.0%) | 2 of 2 |" in text
    assert "| gold answers | 80 | 97.5% (97.0% to 98.0%) | 0 of 2 |" in text
    assert "a balanced accuracy of 49% over the run" in text
    assert "in 93% of the groups of verifications" in text
    assert "Asked to verify" not in drawn({"entries": entries[:2], "settings": SETTINGS, "missing": {}})


@pytest.mark.slow
def test_a_run_is_made_once_and_its_policies_solve_problems_of_their_own(tmp_path, monkeypatch):
    use_tiny_lab(suite, tmp_path, monkeypatch)
    options, found = Options(tmp_path, size="tiny", repeats=1), {"missing": {}, "entries": []}
    for step in suite.steps(options):
        step.run(found)
    right, verify = found["entries"]
    assert {right["guards"][labels]["step"] for labels in ("gold", "majority")} | {0, 2} == set(
        map(int, right["accuracy"])
    )
    assert right["verifying"] is None
    assert verify["run"] == VERIFY
    assert not list((tmp_path / "runs").rglob("checkpoint-*"))
    monkeypatch.setattr(suite, "train", None)
    again = {"missing": {}, "entries": []}
    suite.steps(options)[0].run(again)
    assert json.dumps(again["entries"][0]) == json.dumps(right)
