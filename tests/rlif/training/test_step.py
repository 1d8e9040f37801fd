"""The knobs do what their names in TRL stand for, and work that changes nothing is not done."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rlif.answers import math_verification
from rlif.data.prompts import read_prompts
from rlif.models.language_model import load_language_model
from rlif.rewards import load_rewards
from rlif.rollouts.encode import encode_prompts
from rlif.rollouts.rollout import Rollout
from rlif.rollouts.sample import sample
from rlif.training.distributed import make_accelerator
from rlif.training.learner import Learner, make_learner
from rlif.training.options import TrainConfig
from rlif.training.step import update
from runs import MakeConfig, train


def make(config: TrainConfig) -> Learner:
    """A learner whose optimizer leaves the weights and their gradients as they are."""
    start = load_language_model(config.model, device="cpu", dtype="float32")
    rewards = load_rewards(config.reward, seed=config.seed)
    accelerator = make_accelerator("cpu", (), Path("unused"))
    learner = make_learner(config, accelerator, start, rewards, need_start_model=config.beta > 0)
    return replace(learner, optimizer=torch.optim.SGD(learner.models.scorer.parameters(), lr=0.0))


def roll(learner: Learner) -> Rollout:
    config = learner.config
    return sample(
        learner.models.language_model,
        encode_prompts(learner.models.language_model, read_prompts(config.data), config.max_completion_length)[:3],
        num_generations=config.num_generations,
        max_completion_length=config.max_completion_length,
        temperature=config.temperature,
        seeds=[(0,), (1,), (2,)],
    )


def gradients(learner: Learner, rollout: Rollout) -> list[Tensor]:
    """Of one update without a learning rate."""
    update(learner, rollout, 1, 0.0)
    return [each.grad.clone() for each in learner.models.scorer.parameters() if each.grad is not None]


def forwards(learner: Learner) -> list[tuple[bool, int]]:
    """Whether each forward of the policy wanted gradients, and of how many completions."""
    calls: list[tuple[bool, int]] = []
    learner.models.scorer.register_forward_pre_hook(
        lambda module, inputs: calls.append((torch.is_grad_enabled(), len(inputs[0].texts)))
    )
    return calls


def test_groups_of_equal_rewards_cost_no_backward(make_config: MakeConfig) -> None:
    learner = make(make_config(reward=("verifiable",), beta=0.0))
    rollout = roll(learner)
    rollout.texts[:] = ["#### 4", "no", "no", "no"] + ["#### 0"] * 8  # the first group differs, the others do not
    calls = forwards(learner)
    metrics = update(learner, rollout, 1, 0.0)
    assert calls == [(False, 8), (True, 4)]
    assert metrics["frac_reward_zero_std"] == pytest.approx(2 / 3)
    assert metrics["completion_length"] == rollout.completion_mask.sum().item() / 12  # the metrics count all of them


def test_with_a_penalty_groups_of_equal_rewards_learn_too(make_config: MakeConfig) -> None:
    learner = make(make_config(reward=("verifiable",), beta=0.1))
    calls = forwards(learner)
    update(learner, roll(learner), 1, 0.0)
    assert calls == [(True, 12)]


def test_a_step_without_anything_to_learn_has_gradients_of_zero(make_config: MakeConfig) -> None:
    learner = make(make_config(reward=("verifiable",), beta=0.0))
    results = gradients(learner, roll(learner))
    assert results
    assert all((gradient == 0).all() for gradient in results)


def test_truncated_completions_are_left_out_of_the_loss_but_not_of_their_group(make_config: MakeConfig) -> None:
    masked = make(make_config(mask_truncated_completions=True, beta=0.0))
    plain = make(make_config(beta=0.0))
    rollout = roll(masked)
    cut_off = [2, 5]
    rollout = replace(rollout, finished=torch.tensor([row not in cut_off for row in range(12)]))
    ours = gradients(masked, rollout)

    # The same by hand: the tokens of these two are not counted, everything else is as it was.
    counted = rollout.completion_mask & rollout.finished[:, None]
    stats = plain.models.scorer(rollout, 1.0)
    lengths = rollout.completion_mask.sum(dim=1)
    groups = (stats.self_certainty.detach().sum(dim=1) / lengths).view(3, 4)
    advantages = ((groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-4)).view(12, 1)
    (-(advantages * stats.logprob * counted).sum() / counted.sum()).backward()
    expected = [each.grad for each in plain.models.scorer.parameters()]
    norm = torch.stack([each.norm() for each in expected]).norm()
    for a, b in zip(ours, expected, strict=True):
        # Clipped to norm 1; float32, with advantages that magnify rounding some 100 times.
        torch.testing.assert_close(a, b / norm.clamp(min=1.0), atol=2e-4, rtol=1e-2)


@pytest.mark.parametrize(
    "changes",
    [
        {"reward": ("random",)},
        {"scale_rewards": "none"},
        {"importance_sampling_level": "sequence", "epsilon_high": 0.3, "delta": 2.0},
        {"entropy_coef": 0.5, "self_certainty_coef": -0.5, "beta": 0.0},
        {"loss_type": "grpo"},
        {"loss_type": "bnpo", "mask_truncated_completions": True},
        {"loss_type": "dr_grpo"},
        {"loss_type": "luspo", "importance_sampling_level": "sequence", "num_iterations": 2},
    ],
)
def test_the_gradient_does_not_depend_on_the_parts_of_the_step(
    changes: dict[str, object], make_config: MakeConfig
) -> None:
    config = make_config(**changes)
    rollout = roll(make(config))
    whole, groups, singles = (
        gradients(make(replace(config, max_tokens_per_forward=budget)), rollout) for budget in (8192, 50, 1)
    )
    for parts in (groups, singles):
        for a, b in zip(whole, parts, strict=True):
            torch.testing.assert_close(a, b, atol=1e-4 * float(a.abs().max()), rtol=1e-3)  # float32 in other orders


def test_entropy_as_an_objective_moves_it_either_way(make_config: MakeConfig, tmp_path: Path) -> None:
    entropy = {}
    for coefficient in (-1.0, 1.0):
        config = make_config(
            output_dir=tmp_path / str(coefficient),
            reward=("random",),
            entropy_coef=coefficient,
            beta=0.0,
            max_steps=15,
            learning_rate=3e-3,
        )
        entropy[coefficient] = train(config).rows[-1]["entropy"]
    assert entropy[1.0] > entropy[-1.0] + 0.5  # nats; both start near 1.8


def test_top_k_restricts_what_is_sampled_and_not_what_is_scored(make_config: MakeConfig, tmp_path: Path) -> None:
    row = train(make_config(top_k=1, max_steps=1)).rows[0]
    assert row["frac_reward_zero_std"] == 1.0  # every completion of a prompt is the most likely one
    assert row["entropy"] > 0.1  # nats, of the whole distribution
    nucleus = make_config(top_p=1e-6, max_steps=1, output_dir=tmp_path / "nucleus")
    assert train(nucleus).rows[0]["entropy"] == row["entropy"]


def test_checkpointed_layers_run_twice_and_change_no_bit(make_config: MakeConfig) -> None:
    config = make_config(num_iterations=2)
    rollout = roll(make(config))
    results, calls = {}, {}
    for checkpointing in (False, True):
        learner = make(replace(config, gradient_checkpointing=checkpointing))
        runs: list[None] = []
        mlp = learner.models.language_model.model.model.layers[0].mlp
        mlp.register_forward_pre_hook(lambda *_, runs=runs: runs.append(None))
        results[checkpointing] = gradients(learner, rollout)
        calls[checkpointing] = len(runs)
        assert not any(module.training for module in learner.models.scorer.model.modules())
    assert calls == {False: 2, True: 4}
    assert all(torch.equal(a, b) for a, b in zip(results[False], results[True], strict=True))


def test_answers_that_cost_too_much_are_counted_and_cost_a_step_no_more_than_its_limit(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    class Slow(math_verification._Worker):
        def ask(self, text: str) -> math_verification._Reply:
            asked.append(text)
            return math_verification._Reply(None, given_up=True, seconds=0.6 * math_verification.STEP_SECONDS)

    monkeypatch.setattr(math_verification, "_worker", Slow())
    learner = make(make_config(reward=("majority_vote",)))
    rollout = roll(learner)
    # Of their own: what another test has had read in this process is remembered.
    rollout.texts[:] = [rf"#### \sum_{{i=1}}^{{{number}}} (i + 90210)" for number in range(12)]
    assert update(learner, rollout, 1, 0.0)["unread_answers"] == 12
    assert len(asked) == 2
    rollout = roll(learner)
    assert update(learner, rollout, 2, 0.0)["unread_answers"] == 0
