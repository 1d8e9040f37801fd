"""Training on groups that share their prompt is training on rows that each have their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rlif.data.prompts import read_prompts
from rlif.models.language_model import load_language_model
from rlif.rewards import load_rewards
from rlif.rollouts.encode import encode_prompts
from rlif.rollouts.sample import sample
from rlif.scoring import scorer as scorer_module
from rlif.scoring.scorer import shared_prompts
from rlif.training.distributed import make_accelerator
from rlif.training.learner import Learner, make_learner
from rlif.training.options import TrainConfig
from rlif.training.step import update
from runs import MakeConfig, train
from tiny_models import TIMES


def make(config: TrainConfig) -> Learner:
    start = load_language_model(config.model, device="cpu", dtype="float32")
    rewards = load_rewards(config.reward, seed=config.seed)
    return make_learner(config, make_accelerator("cpu", (), Path("unused")), start, rewards, need_start_model=True)


@pytest.mark.parametrize("changes", [{}, {"num_iterations": 2, "gradient_checkpointing": True, "lora_rank": 4}])
def test_after_twenty_steps_the_weights_are_the_same(
    changes: dict[str, object], make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scorer_module, "ATTENTION_COST", 0)  # so small a model would not share
    config = make_config(beta=0.1, learning_rate=1e-5, **changes)
    learners = [make(replace(config, share_prompts=share_prompts)) for share_prompts in (True, False)]
    assert [shared_prompts(learner.models.scorer) for learner in learners] == [1.0, 0.0]
    language_model = load_language_model(config.model, device="cpu", dtype="float32")
    prompts = encode_prompts(language_model, read_prompts(config.data), config.max_completion_length)
    for step in range(20):
        # Both learn from the same completions, which the model that both started from has sampled.
        rollout = sample(
            language_model,
            prompts[step % 2 :: 2],
            num_generations=config.num_generations,
            max_completion_length=config.max_completion_length,
            temperature=config.temperature,
            seeds=[(step, number) for number in range(3)],
        )
        metrics = [update(learner, rollout, step + 1, config.learning_rate) for learner in learners]
        assert metrics[0] == pytest.approx(metrics[1], rel=1e-3, abs=1e-4)
    shared, separate = (dict(learner.models.scorer.named_parameters()) for learner in learners)
    start = dict(make(config).models.scorer.named_parameters())
    moved = max(float((value - start[name]).detach().abs().max()) for name, value in separate.items())
    assert moved > 1e-4
    for name, value in separate.items():
        torch.testing.assert_close(shared[name], value, atol=1e-5, rtol=0)


def test_a_run_learns_from_its_first_step_what_one_without_sharing_does(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scorer_module, "ATTENTION_COST", 0)
    rows = [
        train(make_config(share_prompts=share_prompts, output_dir=tmp_path / str(share_prompts), max_steps=1)).rows[-1]
        for share_prompts in (True, False)
    ]
    for name in rows[0].keys() - TIMES:
        assert rows[0][name] == pytest.approx(rows[1][name], rel=1e-3, abs=1e-4), name
