"""The built-in rewards are those of the papers."""

import dataclasses
import math

import pytest

from made_rollouts import TOKENIZER, VOCAB_SIZE, make_rollout, make_stats
from rlif.rewards import load_rewards
from rlif.rollouts.rollout import Rollout


def reward(spec: str, rollout: Rollout, *, step: int = 1, seed: int = 0) -> list[float]:
    """The rewards of a rollout, with no more statistics than the reward says that it uses."""
    mixture = load_rewards(spec, seed=seed)
    outputs = mixture.outputs or ("logprob",)
    return mixture(make_stats(rollout, outputs)[1], rollout, tokenizer=TOKENIZER, step=step).total.tolist()


def test_the_confidence_rewards_are_those_of_the_papers() -> None:
    rollout = make_rollout(["7", "1+1=2"])
    logits, _ = make_stats(rollout)
    for row, length in enumerate((2, 6)):
        log_p = logits[row, :length].detach().double().log_softmax(dim=-1)
        logprob = log_p.gather(1, rollout.completion_ids[row, :length, None])
        expected = {
            "self_certainty": (-math.log(VOCAB_SIZE) - log_p).mean(dim=-1).mean(),
            "token_entropy": (log_p.exp() * log_p).sum(dim=-1).mean(),
            "trajectory_entropy": logprob.mean(),
            "sequence_logprob": logprob.sum(),
        }
        for name, value in expected.items():
            # float32 against float64, values of order 10 at most
            assert reward(name, rollout)[row] == pytest.approx(value.item(), abs=2e-5)


def test_probability_disparity_is_the_lead_of_the_answers_tokens_over_the_runner_up() -> None:
    rollout = make_rollout(["1#### 20\n3", "#### ", "20"])
    logits, _ = make_stats(rollout)
    top = logits[0].detach().double().softmax(dim=-1)
    second = top.topk(2).values[:, 1]
    chosen = top.gather(1, rollout.completion_ids[0, :, None])[:, 0]
    answer = slice(6, 8)  # "20", one token a character
    rewards = reward("probability_disparity", rollout)
    # float32 against float64, differences of probabilities
    assert rewards == pytest.approx([(chosen - second)[answer].mean().item(), 0.0, 0.0], abs=1e-6)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("majority_vote", [1, 0, 1, 1, 0, 0, 1, 0, 0, 0]),
        ("semantic_entropy", [0.6, 0.2, 0.6, 0.6, 0, 0, 0, 0, 0, 0]),
        ("format", [1, 1, 1, 1, 0, 0, 1, 1, 1, 1]),
        ("verifiable", [1, 0, 1, 1, 0, 0, 0, 0, 1, 0]),
    ],
)
def test_answers_are_compared_within_their_group_by_value(name: str, expected: list[float]) -> None:
    agreeing = ["#### 2", "#### 1", "1+1#### 02", "#### +2", "2"]
    scattered = ["7", "#### 5", "#### 4", "#### 2", "#### 3"]  # nothing is most common: the first answer is taken
    rollout = make_rollout([*agreeing, *scattered], num_generations=5)
    assert reward(name, rollout) == pytest.approx(expected)


def test_of_several_gold_answers_any_is_right() -> None:
    rollout = make_rollout(["#### 02", "#### 4", "#### 3", "2"], answer=("2", "4"))
    assert reward("verifiable", rollout) == [1, 1, 0, 0]
    assert reward("rise", rollout) == reward("rise", make_rollout(["#### 1", "#### 1", "#### 3", "2"], answer="1"))


def test_a_group_that_states_no_answer_gets_nothing_for_agreeing() -> None:
    rollout = make_rollout(["1", "2", "2"], answer=None)
    for name in ("majority_vote", "semantic_entropy", "verifiable", "format"):
        assert reward(name, rollout) == [0, 0, 0]


def test_the_random_reward_is_a_fair_coin_that_repeats_however_the_step_is_divided() -> None:
    rollout = make_rollout(["1"] * 4000, num_generations=500)
    rollout.prompts[:] = [f"{row // 500}" for row in range(4000)]
    rewards = reward("random", rollout)
    assert set(rewards) == {0.0, 1.0}
    assert abs(sum(rewards) / 4000 - 0.5) < 0.04  # five standard errors
    assert rewards[:500] != rewards[500:1000]
    part = dataclasses.replace(make_rollout(["1"] * 1000, num_generations=500), prompts=rollout.prompts[1000:2000])
    assert reward("random", part) == rewards[1000:2000]
    assert reward("random", rollout, step=2) != rewards
    assert reward("random", rollout, seed=1) != rewards
