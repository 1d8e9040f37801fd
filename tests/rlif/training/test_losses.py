"""The options of the loss reach it, cost no forward of their own, and are followed over a run and its checkpoints."""

from __future__ import annotations

import math
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
from rlif.training.distributed import make_accelerator
from rlif.training.entropy_control import EntropyControl
from rlif.training.learner import Learner, make_learner
from rlif.training.options import TrainConfig
from rlif.training.resampling import redraw_equal_groups, with_groups
from rlif.training.step import update
from rlif_kernels import TokenStats
from runs import MakeConfig, train


def make(config: TrainConfig) -> Learner:
    """A learner whose optimizer leaves the weights and their gradients as they are."""
    start = load_language_model(config.model, device="cpu", dtype="float32")
    rewards = load_rewards(config.reward, seed=config.seed)
    accelerator = make_accelerator("cpu", (), Path("unused"))
    learner = make_learner(config, accelerator, start, rewards, need_start_model=config.beta > 0)
    return replace(learner, optimizer=torch.optim.SGD(learner.models.scorer.parameters(), lr=0.0))


def roll(learner: Learner, seed: int = 0, prompts: int = 3) -> Rollout:
    config = learner.config
    encoded = encode_prompts(learner.models.language_model, read_prompts(config.data), config.max_completion_length)
    return sample(
        learner.models.language_model,
        encoded[:prompts],
        num_generations=config.num_generations,
        max_completion_length=config.max_completion_length,
        temperature=config.temperature,
        seeds=[(seed, position) for position in range(prompts)],
        outputs=("logprob",),
    )


def gradients(learner: Learner, rollout: Rollout) -> list[Tensor]:
    """Of one update without a learning rate."""
    update(learner, rollout, 1, 0.0)
    return [each.grad.clone() for each in learner.models.scorer.parameters() if each.grad is not None]


CHANGES = {
    "cispo": {"loss_type": "cispo", "epsilon_high": 5.0},
    "gmpo": {"loss_type": "gmpo"},
    "high entropy": {"top_entropy_quantile": 0.3},
    "Clip-Cov": {"clip_cov_ratio": 0.1, "clip_cov_lb": -5.0},
    "KL-Cov": {"kl_cov_ratio": 0.1},
    "a sampler that is corrected": {"importance_sampling_mode": "token_truncate"},
    "an entropy that is followed": {"use_adaptive_entropy": True, "entropy_target": 100.0},
}


@pytest.mark.parametrize("reward", ["self_certainty", "random"])
@pytest.mark.parametrize("case", CHANGES)
def test_no_option_of_the_loss_takes_a_second_forward_on_policy(
    case: str, reward: str, make_config: MakeConfig
) -> None:
    learner = make(make_config(reward=(reward,), beta=0.0, **CHANGES[case]))
    completions: list[int] = []
    learner.models.scorer.register_forward_pre_hook(lambda _, inputs: completions.append(len(inputs[0].texts)))
    metrics = update(learner, roll(learner), 1, 0.0)
    assert sum(completions) == 12  # each went through one forward
    assert math.isfinite(metrics["loss"])
    assert metrics["grad_norm"] > 0


def test_the_tokens_of_high_entropy_alone_move_the_weights(make_config: MakeConfig) -> None:
    config = make_config(beta=0.0, top_entropy_quantile=0.4, max_grad_norm=1e9, reward=("random",))
    learner = make(config)
    rollout = roll(learner)
    ours = gradients(learner, rollout)
    plain = make(replace(config, top_entropy_quantile=1.0))
    stats = plain.models.scorer(rollout, 1.0)
    entropy, counted = stats.entropy.detach(), rollout.completion_mask
    high = counted & (entropy >= entropy[counted].quantile(0.6))
    total, _ = plain.rewards(TokenStats(), rollout, tokenizer=plain.models.language_model.tokenizer, step=1)
    groups = total.view(3, 4)
    advantages = ((groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-4)).view(12, 1).float()
    (-(advantages * stats.logprob * high).sum() / counted.sum()).backward()
    for a, b in zip(ours, [each.grad for each in plain.models.scorer.parameters()], strict=True):
        assert b is not None
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)  # float32 in another order


@pytest.mark.parametrize("reward", ["self_certainty", "random"])
def test_a_sampler_that_says_half_the_probability_weighs_each_token_twice(reward: str, make_config: MakeConfig) -> None:
    config = make_config(beta=0.0, max_grad_norm=1e9, reward=(reward,), num_iterations=2)
    rollout = roll(make(config))
    assert rollout.stats is not None
    assert rollout.stats.logprob is not None
    halved = replace(
        rollout, stats=TokenStats((rollout.stats.logprob - math.log(2.0)).where(rollout.completion_mask, 0))
    )
    plain = gradients(make(config), rollout)
    learner = make(replace(config, importance_sampling_mode="token_truncate"))
    doubled = gradients(learner, halved)
    for a, b in zip(plain, doubled, strict=True):
        # Sampling and scoring differ in the last digits of float32.
        torch.testing.assert_close(2 * a, b, atol=1e-5 * float(a.abs().max()) + 1e-7, rtol=1e-3)
    assert update(learner, halved, 1, 0.0)["sampler_weight"] == pytest.approx(2.0, rel=1e-4)
    masked = make(replace(config, importance_sampling_mode="token_mask", importance_sampling_clip_max=1.9))
    assert all((gradient == 0).all() for gradient in gradients(masked, halved))


def test_a_run_keeps_what_its_sampler_said(make_config: MakeConfig) -> None:
    result = train(make_config(importance_sampling_mode="sequence_truncate", num_iterations=2))
    # One model samples and learns: its probabilities differ by the rounding of float32.
    assert [row["sampler_weight"] for row in result.rows] == pytest.approx([1.0, 1.0], abs=1e-3)


def test_the_weight_of_the_entropy_follows_it_as_in_trl(make_config: MakeConfig) -> None:
    config = make_config(use_adaptive_entropy=True, entropy_coef=0.1, entropy_target=1.0, entropy_coef_delta=0.06)
    config = replace(config, entropy_coef_max=0.2, entropy_coef_min=0.05)
    control, accelerator = EntropyControl(config, config.entropy_coef), make_accelerator("cpu", (), Path("unused"))
    assert control.applied == 0.0  # nothing has been seen yet
    mask = torch.tensor([[True, True, False]])
    seen = []
    for values in ([0.9, 0.9, 9.0], [0.5, 1.5, 9.0], [0.0, 2.1, 9.0], [2.0, 2.0, 9.0], [3.0, 3.0, 0.0]):
        control.see(torch.tensor([values]), mask, 1.0)
        control.finish_update(accelerator)
        seen.append((round(control.coef, 6), round(control.applied, 6)))
    assert seen == [(0.16, 0.16), (0.2, 0.2), (0.14, 0.0), (0.08, 0.0), (0.05, 0.0)]
    control.see(torch.tensor([[0.1, 3.0, 0.0]]), mask, 0.0)  # the highest entropy alone learns, and is above the target
    control.finish_update(accelerator)
    assert control.last_entropy == pytest.approx(3.0)


# ---------------------------------------------------------------- groups that teach nothing


def test_other_completions_take_the_place_of_a_groups(make_config: MakeConfig) -> None:
    learner = make(make_config(max_completion_length=5))
    longer = make(make_config(max_completion_length=9))
    rollout, drawn = roll(learner), roll(longer, seed=7).select(range(4, 8))
    merged = with_groups(rollout, [1], drawn, learner.models.language_model.pad_token_id)
    for row in range(12):
        source, place = (drawn, row - 4) if 4 <= row < 8 else (rollout, row)
        expected, ours = source.select([place]), merged.select([row])
        assert ours.texts == expected.texts
        assert ours.prompts == expected.prompts
        for name in ("prompt_ids", "completion_ids", "completion_mask", "finished"):
            assert torch.equal(getattr(ours, name), getattr(expected, name)), name
        assert ours.stats is not None
        assert expected.stats is not None
        assert torch.equal(ours.stats.logprob, expected.stats.logprob)  # type: ignore[arg-type]


@pytest.mark.parametrize("reward", ["verifiable", "self_certainty"])
def test_groups_of_equal_rewards_are_drawn_anew_so_often_at_most(reward: str, make_config: MakeConfig) -> None:
    learner = make(make_config(reward=(reward,), max_num_gen_batches=3))
    rollout = roll(learner)
    if reward == "verifiable":
        rollout.texts[:] = ["#### 4", "no", "no", "no"] + ["#### 0"] * 8  # the first group differs, the others do not
    else:
        for name in ("completion_ids", "completion_mask"):
            getattr(rollout, name)[4:] = getattr(rollout, name)[4:5]
    asked: list[tuple[list[int], int]] = []

    def draw(groups: list[int], attempt: int) -> Rollout:
        asked.append((list(groups), attempt))
        part = rollout.select([row for group in groups for row in range(4 * group, 4 * group + 4)])
        if attempt == 2:  # the last time all groups differ
            part.texts[:] = ["#### 21", "no", "no", "no"] * len(groups)
        return part

    result, redrawn = redraw_equal_groups(learner, rollout, draw, 1)  # type: ignore[arg-type]
    assert asked == [([1, 2], 1), ([1, 2], 2)]
    assert redrawn == 4
    if reward == "verifiable":
        assert result.texts[4:] == ["#### 21", "no", "no", "no"] * 2
    assert redraw_equal_groups(replace_config(learner, max_num_gen_batches=1), rollout, draw, 1) == (rollout, 0)  # type: ignore[arg-type]


def replace_config(learner: Learner, **changes: object) -> Learner:
    return replace(learner, config=replace(learner.config, **changes))  # type: ignore[arg-type]


def test_a_run_that_draws_anew_has_fewer_groups_without_contrast(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(reward=("majority_vote",), max_steps=1, max_completion_length=3, num_generations=2)
    once = train(config).rows[-1]
    often = train(replace(config, max_num_gen_batches=6, output_dir=tmp_path / "often")).rows[-1]
    assert "redrawn_groups" not in once
    assert often["frac_reward_zero_std"] <= once["frac_reward_zero_std"]
    assert often["redrawn_groups"] >= 3 * once["frac_reward_zero_std"]
