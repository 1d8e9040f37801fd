"""A mixture is the weighted sum of its rewards, which stay as they are."""

import pytest
import torch

from made_rollouts import TOKENIZER, make_rollout, make_stats
from rlif.errors import UserError
from rlif.rewards import REWARDS, Rewards, load_rewards, uses
from rlif.rewards.advantages import group_advantages


def mixed(*specs: str, aggregation: str = "sum_then_normalize") -> Rewards:
    rollout = make_rollout(["#### 2", "#### 3", "20", "1+1", "5", "#### 2#", "##", "3+3"], num_generations=4)
    mixture = load_rewards(specs, aggregation=aggregation)  # type: ignore[arg-type]
    return mixture(make_stats(rollout)[1], rollout, tokenizer=TOKENIZER, step=1)


@pytest.mark.parametrize("name", REWARDS)
def test_a_reward_alone_is_a_mixture_of_one(name: str) -> None:
    total, parts = mixed(name)
    assert total.shape == (8,)
    assert total.dtype == torch.float64
    assert not total.requires_grad
    torch.testing.assert_close(total, parts[name], rtol=0, atol=0, equal_nan=True)
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


@uses()
def sometimes(completions: list[str]) -> list[float | None]:
    """Their length, where they have an answer's marker."""
    return [float(len(text)) if "####" in text else None for text in completions]


def test_a_reward_that_does_not_apply_to_a_completion_is_left_out_of_its_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REWARDS, "sometimes", sometimes)
    total, parts = mixed("sometimes", "format=10")
    assert parts["sometimes"].nan_to_num(-1).tolist() == [6, 6, -1, -1, -1, 7, -1, -1]
    assert total.tolist() == [16, 16, 0, 0, 0, 17, 0, 0]
    alone, _ = mixed("sometimes")
    assert alone.isnan().tolist() == [False, False, True, True, True, False, True, True]
    normalised, parts = mixed("sometimes", "format", aggregation="normalize_then_sum")
    # Of the first group two have it, equal; of the second one alone, which has nothing to be compared with.
    torch.testing.assert_close(normalised, group_advantages(parts["format"], 4))


def test_the_forward_computes_what_the_mixture_reads_and_no_more() -> None:
    assert load_rewards(["majority_vote", "format"]).outputs == ()
    assert load_rewards(["self_certainty", "probability_disparity", "trajectory_entropy"]).outputs == (
        "self_certainty",
        "logprob",
        "top_probs",
    )
    assert [name for name in REWARDS if load_rewards(name).needs_answers] == ["verifiable", "rise", "rlcr"]


def test_a_reward_of_ours_that_is_not_finite_is_an_error_too() -> None:
    rollout = make_rollout(["7", "1+1=2"])
    _, stats = make_stats(rollout)
    assert stats.entropy is not None
    entropy = stats.entropy.detach().clone()
    entropy[1, 0] = torch.nan
    with pytest.raises(UserError, match=r"^reward token_entropy: returned nan for completion 2 of 2, .*'1\+1='"):
        load_rewards("token_entropy")(stats._replace(entropy=entropy), rollout, tokenizer=TOKENIZER, step=1)
