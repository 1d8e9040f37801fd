"""Rewards of a completion: what the loop maximises.

The internal rewards need no label: they are statistics of the policy's own distributions p_t over a completion's
tokens y_1..T (EOS included, T its length), at the sampling temperature. They are three different objectives.
`trajectory_entropy` depends on the tokens that were drawn: the policy gradient of the *summed* log-probability is
that of the negative sequence entropy. `token_entropy` and `self_certainty` of step t do not depend on the token drawn
at t, so they act only through the tokens before it, and a step on them can raise the entropy of the sequence.

Needs no torch at import, so that the command line can check a name at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rlif.answers import answers_match, extract_answer
from rlif.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from rlif.rollout import Rollout
    from rlif_kernels import TokenStats

# Every reward is a function of the statistics, whose fields are (N, T) float32 and 0 outside the completion mask, and
# of the rollout of N completions that they belong to, whole groups side by side. It returns (N,) float32, detached.
RewardFunction = Callable[["TokenStats", "Rollout"], "Tensor"]


def self_certainty(stats: TokenStats, rollout: Rollout) -> Tensor:
    """Mean over the completion's tokens of KL(Uniform ‖ p_t), in nats (Intuitor, arXiv 2505.19590)."""
    assert stats.self_certainty is not None
    return _completion_mean(stats.self_certainty, rollout)


def token_entropy(stats: TokenStats, rollout: Rollout) -> Tensor:
    """Minus the mean over the completion's tokens of the entropy H(p_t), in nats (arXiv 2506.17219, 2505.22660)."""
    assert stats.entropy is not None
    return -_completion_mean(stats.entropy, rollout)


def trajectory_entropy(stats: TokenStats, rollout: Rollout) -> Tensor:
    """Mean over the completion's tokens of log p_t(y_t), in nats (arXiv 2506.17219)."""
    assert stats.logprob is not None
    return _completion_mean(stats.logprob, rollout)


def verifiable(stats: TokenStats, rollout: Rollout) -> Tensor:
    """1 if the completion's answer equals the gold one, else 0: the baseline that needs labels (RLVR)."""
    assert stats.logprob is not None
    return stats.logprob.new_tensor(correctness(rollout))


def correctness(rollout: Rollout) -> list[float]:
    """1.0 for every completion whose extracted answer equals its prompt's gold answer, else 0.0."""
    return [
        float(answer is not None and gold is not None and answers_match(answer, gold))
        for answer, gold in zip(map(extract_answer, rollout.texts), rollout.answers, strict=True)
    ]


def _completion_mean(values: Tensor, rollout: Rollout) -> Tensor:
    return values.detach().sum(dim=1) / rollout.completion_mask.sum(dim=1)


REWARDS: dict[str, RewardFunction] = {
    "self_certainty": self_certainty,
    "token_entropy": token_entropy,
    "trajectory_entropy": trajectory_entropy,
    "verifiable": verifiable,
}

# Those that cannot do without the column `answer`.
NEEDS_ANSWERS = frozenset({"verifiable"})


def get_reward(name: str) -> RewardFunction:
    """The reward function of that name.

    Raises:
        UserError: for a name that is not in `REWARDS`, listing those that are.
    """
    if name not in REWARDS:
        raise UserError(f"reward: got {name!r}, expected one of {', '.join(REWARDS)}")
    return REWARDS[name]
