"""The suite `kl-estimators` compares gradients with the one that is known, and draws what it found."""

import json

import pytest
import torch

from benchmarks.report import charts
from benchmarks.report.kl_estimators import kl_estimators
from benchmarks.steps import kl_estimators as suite
from benchmarks.steps.workload import SIZES, random_model
from rlif.models.language_model import LanguageModel
from rlif.rollouts.encode import EncodedPrompt
from rlif.rollouts.sample import sample


def test_the_divergence_of_the_very_completions_is_their_gradient_and_the_results_are_drawn(tmp_path):
    start, tokenizer = random_model(SIZES["tiny"])
    policy, _ = random_model(SIZES["tiny"])
    with torch.no_grad():
        for each in policy.parameters():
            each.add_(0.1 * torch.randn_like(each))
    rollout = sample(
        LanguageModel(policy.eval(), tokenizer, (), 0), [EncodedPrompt("", None, [3, 4])], num_generations=1,
        max_completion_length=5, temperature=1.0, seeds=[(0,)],
    ).select([0] * 4)  # fmt: skip
    pair = (policy, start.eval().requires_grad_(False))
    target, divergence = suite.known_gradient(pair, rollout, range(4))
    tokens = suite.tokens_per_completion(rollout, 4)
    assert tokens == 5.0
    found = suite.errors(pair, rollout, range(4), target, tokens)
    assert found["full"].keys() == {"1", "2"}
    assert max(found["full"].values()) < 1e-5  # sums of float32
    # Of one completion, four times, no number of them makes an estimate better.
    for name in ("k1", "k2", "k3"):
        assert found[name]["1"] == pytest.approx(found[name]["2"], rel=1e-4)
        assert found[name]["1"] > 0.1

    results = {
        "suite": "kl-estimators", "date": "2026-01-02", "size": "full", "missing": {}, "parameters": 10,
        "vocabulary": 50, "training_steps": 1, "divergence": divergence, "known_completions": 4,
        "entries": [{"estimator": name, "errors": errors} for name, errors in found.items()],
        "machine": {"processor": "P", "gpu": None, "cores": 2, "versions": {"torch": "2"}},
    }  # fmt: skip
    assert "| estimator | 1 completion | 2 completions |" in kl_estimators(results)
    source = tmp_path / "machine-2026-01-02-kl-estimators.json"
    source.write_text(json.dumps(results))
    charts.draw_charts(source, tmp_path)
    assert [path.name for path in (tmp_path / "charts").iterdir()] == ["machine-kl-estimators.png"]
