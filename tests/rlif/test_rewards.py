"""Rewards are means over a completion's own tokens, carry no gradient, and are looked up by name."""

import dataclasses
import math
import subprocess
import sys

import pytest
import torch

from rlif.errors import UserError
from rlif.rewards import NEEDS_ANSWERS, REWARDS, get_reward
from rlif.rollout import Rollout
from rlif_kernels import TokenStats, token_stats

LENGTHS = (1, 4)


@pytest.fixture
def scored() -> tuple[torch.Tensor, TokenStats, Rollout]:
    """Logits of two completions of 1 and 4 tokens, their statistics, and the rollout."""
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(2, 4, 7, generator=generator)).requires_grad_()
    mask = torch.arange(4) < torch.tensor(LENGTHS)[:, None]
    ids = torch.randint(7, (2, 4), generator=generator)
    rollout = Rollout(
        prompts=["1+1=", "1+1="],
        answers=["2", "2"],
        texts=["#### 2.0", "#### 3"],
        prompt_ids=torch.zeros(2, 1, dtype=torch.long),
        prompt_mask=torch.ones(2, 1, dtype=torch.bool),
        completion_ids=ids,
        completion_mask=mask,
        finished=torch.ones(2, dtype=torch.bool),
        num_generations=2,
    )
    return logits, token_stats(logits, ids, mask=mask), rollout


def test_internal_rewards_are_the_means_of_the_papers(scored: tuple[torch.Tensor, TokenStats, Rollout]) -> None:
    logits, stats, rollout = scored
    for row, length in enumerate(LENGTHS):
        log_p = logits[row, :length].detach().double().log_softmax(dim=-1)
        uniform = 1 / 7
        expected = {
            "self_certainty": (uniform * (math.log(uniform) - log_p)).sum(dim=-1).mean(),
            "token_entropy": (log_p.exp() * log_p).sum(dim=-1).mean(),
            "trajectory_entropy": log_p.gather(1, rollout.completion_ids[row, :length, None]).mean(),
        }
        for name, value in expected.items():
            # float32 against float64, values of order 1
            assert get_reward(name)(stats, rollout)[row].item() == pytest.approx(value.item(), abs=1e-5)


def test_the_verifiable_reward_compares_the_stated_answer_with_the_gold_one(
    scored: tuple[torch.Tensor, TokenStats, Rollout],
) -> None:
    _, stats, rollout = scored
    assert get_reward("verifiable")(stats, rollout).tolist() == [1.0, 0.0]
    unanswered = dataclasses.replace(rollout, answers=[None, "3"], texts=["#### 2", "no answer"])
    assert get_reward("verifiable")(stats, unanswered).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("name", REWARDS)
def test_a_reward_is_float32_a_completion_without_gradient(
    name: str, scored: tuple[torch.Tensor, TokenStats, Rollout]
) -> None:
    _, stats, rollout = scored
    rewards = get_reward(name)(stats, rollout)
    assert rewards.shape == (2,)
    assert rewards.dtype == torch.float32
    assert not rewards.requires_grad


def test_an_unknown_reward_is_an_error_that_lists_the_known() -> None:
    with pytest.raises(UserError) as error:
        get_reward("self-certainty")
    assert "'self-certainty'" in str(error.value)
    assert all(name in str(error.value) for name in REWARDS)
    assert set(REWARDS) >= NEEDS_ANSWERS


def test_rewards_can_be_listed_without_loading_torch() -> None:
    # The command line checks the name and prints its help by it; loading torch takes seconds.
    code = "import sys, rlif.config; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
