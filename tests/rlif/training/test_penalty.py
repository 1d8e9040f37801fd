"""The penalty is KL(policy ‖ start model) itself where it is asked for, from hidden states and from logits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rlif.data.prompts import read_prompts
from rlif.models.language_model import load_language_model
from rlif.rewards import load_rewards
from rlif.rollouts.encode import encode_prompts
from rlif.rollouts.rollout import Rollout
from rlif.rollouts.sample import sample
from rlif.scoring import scorer as scorer_module
from rlif.scoring.scorer import Scorer
from rlif.training.distributed import make_accelerator
from rlif.training.learner import Learner, make_learner
from rlif.training.options import TrainConfig
from rlif.training.step import update
from runs import MakeConfig


def make(config: TrainConfig, noise: float = 0.05) -> Learner:
    """A learner whose policy is off the start model, and whose optimizer leaves the weights as they are."""
    start = load_language_model(config.model, device="cpu", dtype="float32")
    accelerator = make_accelerator("cpu", (), Path("unused"))
    rewards = load_rewards(config.reward, seed=config.seed)
    learner = make_learner(config, accelerator, start, rewards, need_start_model=True)
    generator = torch.Generator().manual_seed(3)
    parameters = [each for each in learner.models.scorer.parameters() if each.requires_grad]
    with torch.no_grad():
        for each in parameters:
            each.add_(noise * torch.randn(each.shape, generator=generator))
    return replace(learner, optimizer=torch.optim.SGD(parameters, lr=0.0))


def roll(learner: Learner) -> Rollout:
    config = learner.config
    prompts = encode_prompts(learner.models.language_model, read_prompts(config.data), config.max_completion_length)
    return sample(
        learner.models.language_model,
        prompts[:3],
        num_generations=config.num_generations,
        max_completion_length=config.max_completion_length,
        temperature=config.temperature,
        seeds=[(0, position) for position in range(3)],
        outputs=("logprob",),
    )


def gradients(learner: Learner, rollout: Rollout) -> tuple[dict[str, float], list[Tensor]]:
    """The metrics, and the gradients of the last update, of a step without a learning rate."""
    metrics = update(learner, rollout, 1, 0.0)
    return metrics, [each.grad.clone() for each in learner.models.scorer.parameters() if each.grad is not None]


def divergence_of(learner: Learner, rollout: Rollout) -> Tensor:
    """The mean over the tokens of KL(policy ‖ start model), in plain torch from whole logits."""
    start_model, temperature = learner.models.start_model, learner.config.temperature
    assert start_model is not None
    policy = Scorer(learner.models.scorer.model, None)
    logp = (policy.scores(rollout) / temperature).log_softmax(-1)
    with torch.no_grad(), start_model.within():
        logq = (Scorer(start_model.scorer.model, None).scores(rollout) / temperature).log_softmax(-1)
    kl = (logp.exp() * (logp - logq)).sum(-1)
    return kl.where(rollout.completion_mask, 0).sum() / rollout.completion_mask.sum()


def assert_close(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5 * float(b.abs().max()) + 1e-7, rtol=1e-3)  # float32 by other ways


# Both ways through a rollout, and statistics that come before a loss whose advantages are known; each head.
WAYS = {
    "one forward": {"reward": ("self_certainty",)},
    "loss and gradient at once": {"reward": ("random",)},
    "statistics first": {"reward": ("random",), "importance_sampling_mode": "token_truncate"},
    "an adapter": {"reward": ("random",), "lora_rank": 4},
    "an adapter with a head": {"reward": ("self_certainty",), "lora_rank": 4, "lora_modules_to_save": ("lm_head",)},
}


@pytest.mark.parametrize("fused_head", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_the_gradient_is_that_of_the_divergence_over_the_whole_vocabulary(
    way: str, fused_head: bool, make_config: MakeConfig
) -> None:
    config = make_config(
        kl_estimator="full", beta=0.5, max_grad_norm=1e9, temperature=0.8, fused_head=fused_head, **WAYS[way]
    )
    learner = make(config)
    rollout = roll(learner)
    metrics, ours = gradients(learner, rollout)
    _, without = gradients(make(replace(config, kl_estimator="k3", beta=0.0)), rollout)
    learner.models.scorer.zero_grad()
    expected = divergence_of(learner, rollout)
    (0.5 * expected).backward()
    theirs = [each.grad for each in learner.models.scorer.parameters() if each.grad is not None]
    assert_close([a - b for a, b in zip(ours, without, strict=True)], theirs)
    assert metrics["kl"] == pytest.approx(expected.item(), rel=1e-4)
    # The start model's NLL is a mean over what the policy might have said: its entropy, and the divergence.
    assert metrics["base_nll"] == pytest.approx(metrics["entropy"] + metrics["kl"], rel=1e-6)


@pytest.mark.parametrize("way", WAYS)
def test_at_the_start_the_penalty_is_nothing_and_has_no_gradient(way: str, make_config: MakeConfig) -> None:
    config = make_config(kl_estimator="full", beta=10.0, max_grad_norm=1e9, **WAYS[way])
    learner = make(config, noise=0.0)
    rollout = roll(learner)
    metrics, ours = gradients(learner, rollout)
    # So it is with the estimate k3, which goes over the same rows.
    estimated, theirs = gradients(make(replace(config, kl_estimator="k3"), noise=0.0), rollout)
    assert metrics["kl"] == estimated["kl"] == 0.0
    assert metrics["loss"] == estimated["loss"]
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)
    unheld, _ = gradients(make(replace(config, kl_estimator="k3", beta=0.0), noise=0.0), rollout)
    assert metrics["grad_norm"] == pytest.approx(unheld["grad_norm"], rel=1e-4)


@pytest.mark.parametrize("fused_head", [True, False])
def test_later_updates_know_what_the_start_model_said_in_the_first(fused_head: bool, make_config: MakeConfig) -> None:
    config = make_config(
        kl_estimator="full", beta=0.5, max_grad_norm=1e9, fused_head=fused_head, num_iterations=3, reward=("random",)
    )
    learner = make(config)
    rollout = roll(learner)
    asked: list[int] = []
    assert learner.models.start_model is not None
    learner.models.start_model.scorer.register_forward_pre_hook(lambda _, inputs: asked.append(len(inputs[0].texts)))
    _, later = gradients(learner, rollout)
    assert sum(asked) == len(rollout.texts)
    _, first = gradients(make(replace(config, num_iterations=1)), rollout)
    assert_close(later, first)  # nothing has moved: a ratio of 1 is that of an update on-policy


def test_completions_that_share_a_prompt_have_the_same_penalty(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scorer_module, "ATTENTION_COST", 0)  # so small a model would not share
    config = make_config(kl_estimator="full", beta=0.5, max_grad_norm=1e9)
    rollout = roll(make(config))
    shared, separate = (
        gradients(make(replace(config, share_prompts=share_prompts)), rollout) for share_prompts in (True, False)
    )
    assert shared[0] == pytest.approx(separate[0], rel=1e-3, abs=1e-5)
    assert_close(shared[1], separate[1])
