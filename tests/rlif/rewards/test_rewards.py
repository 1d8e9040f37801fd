"""The built-in rewards are those of the papers, and a mixture is their weighted sum."""

import dataclasses
import math
import subprocess
import sys

import pytest
import torch

from made_rollouts import TOKENIZER, VOCAB_SIZE, make_rollout, make_stats
from rlif.errors import UserError
from rlif.rewards import REWARDS, Rewards, load_rewards
from rlif.rewards.advantages import group_advantages
from rlif.rollouts.rollout import Rollout
from rlif.scoring.answer_tokens import answer_tokens


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


class TokenPieces:
    """A tokenizer whose pieces are longer than a character, one of them special and one a part of a character."""

    pieces = ("<s>", "the ", "answer", ": \\boxed{", "1", "2", "3}", ".")

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
        return "".join(self.pieces[index] for index in ids if not (skip_special_tokens and index == 0))


@pytest.mark.parametrize(
    ("ids", "tokens"),
    [
        ([1, 2, 3, 4, 5, 6, 7], [4, 5, 6]),
        ([0, 1, 3, 4, 0, 6, 0], [4, 0, 6]),
        ([3, 6], [6]),
        ([1, 2], None),
    ],
)
def test_the_answers_tokens_are_those_that_a_part_of_it_was_decoded_from(ids: list[int], tokens: list[int]) -> None:
    tokenizer = TokenPieces()
    found = answer_tokens(tokenizer.decode(ids, skip_special_tokens=True), ids, tokenizer)  # type: ignore[arg-type]
    assert (None if found is None else ids[found]) == tokens


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


def mixed(*specs: str, aggregation: str = "sum_then_normalize") -> Rewards:
    rollout = make_rollout(["#### 2", "#### 3", "20", "1+1", "5", "#### 2#", "##", "3+3"], num_generations=4)
    mixture = load_rewards(specs, aggregation=aggregation)  # type: ignore[arg-type]
    return mixture(make_stats(rollout)[1], rollout, tokenizer=TOKENIZER, step=1)


@pytest.mark.parametrize("name", REWARDS)
def test_a_reward_alone_is_a_mixture_of_one(name: str) -> None:
    total, parts = mixed(name)
    assert total.shape == (8,)
    assert total.dtype == torch.float32
    assert not total.requires_grad
    assert torch.equal(total, parts[name])
    assert list(parts) == [name]


def test_a_mixture_is_the_weighted_sum_and_keeps_each_part_as_it_is() -> None:
    total, parts = mixed("self_certainty=2", "format=-0.1", "verifiable=0")
    torch.testing.assert_close(total, 2 * parts["self_certainty"] - 0.1 * parts["format"])
    assert parts["format"].tolist() == [1, 1, 0, 0, 0, 1, 0, 0]
    assert parts["verifiable"].tolist() == [1, 0, 0, 0, 0, 0, 0, 0]


def test_rewards_normalised_first_weigh_the_same_whatever_their_scale() -> None:
    _, parts = mixed("sequence_logprob", "format")
    expected = 3 * group_advantages(parts["sequence_logprob"], 4) + group_advantages(parts["format"], 4)
    total, raw = mixed("sequence_logprob=3", "format", aggregation="normalize_then_sum")
    torch.testing.assert_close(total, expected)
    assert torch.equal(raw["sequence_logprob"], parts["sequence_logprob"])


def test_the_forward_computes_what_the_mixture_reads_and_no_more() -> None:
    assert load_rewards(["majority_vote", "format"]).outputs == ()
    assert load_rewards(["self_certainty", "probability_disparity", "trajectory_entropy"]).outputs == (
        "self_certainty",
        "logprob",
        "top_probs",
    )
    assert [name for name in REWARDS if load_rewards(name).needs_answers] == ["verifiable"]


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ([], "reward: got none, expected at least one of self_certainty,"),
        (["self-certainty"], "got 'self-certainty', expected one of .*; did you mean self_certainty?"),
        (["format=much"], "got the weight 'much' in 'format=much', expected a finite number"),
        (["format="], "got the weight '' in 'format=', expected a finite number"),
        (["format=nan"], "expected a finite number"),
        (["format", "random", "format=2"], "'format' is named twice"),
        (["format=0", "random=0"], "every weight is 0"),
    ],
)
def test_what_is_wrong_with_a_mixture_is_said_before_any_work(specs: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_rewards(specs)


def test_rewards_can_be_listed_without_loading_torch() -> None:
    # The command line checks the names and prints its help by them; loading torch takes seconds.
    code = (
        "import sys; from rlif.training.options import TrainConfig; "
        "TrainConfig(model='m', data='d', reward=('self_certainty', 'format=0.1')).validate(); "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_reward_of_ours_that_is_not_finite_is_an_error_too() -> None:
    rollout = make_rollout(["7", "1+1=2"])
    _, stats = make_stats(rollout)
    assert stats.entropy is not None
    entropy = stats.entropy.detach().clone()
    entropy[1, 0] = torch.nan
    with pytest.raises(UserError, match=r"^reward token_entropy: returned nan for completion 2 of 2, .*'1\+1='"):
        load_rewards("token_entropy")(stats._replace(entropy=entropy), rollout, tokenizer=TOKENIZER, step=1)
