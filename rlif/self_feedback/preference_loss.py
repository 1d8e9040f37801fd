"""Losses of preference pairs, from log-probabilities of whole completions: DPO and its variants.

The completions' log-probabilities come from `rlif.scoring.scorer.Scorer`, which never forms logits. With the log-ratios
u = log pi(chosen) - log pi_ref(chosen) and v of the rejected one, and the score x = beta (u - v) - margin:

| loss_type | loss of a pair | source |
| --- | --- | --- |
| `sigmoid` | -log sigmoid(x), or (1 - e) times it - e log sigmoid(-x) with label smoothing e | DPO, arXiv 2305.18290; |
| | | its appendix on noisy labels (conservative DPO) |
| `robust` | (-(1 - e) log sigmoid(x) + e log sigmoid(-x)) / (1 - 2 e) | robust DPO, arXiv 2403.00409 |
| `hinge` | max(0, 1 - x) | SLiC, arXiv 2305.10425 |
| `ipo` | (u / T_chosen - v / T_rejected - margin - 1 / (2 beta))^2, mean log-ratios of T tokens | arXiv 2310.12036 |

`sigmoid` without smoothing, `robust`, `hinge` and `ipo` are those of TRL's DPOTrainer by name and value. The margin is
an offset that the score has to exceed (arXiv 2402.10571).
"""

from __future__ import annotations

from typing import NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from rlif.self_feedback.options import PreferenceLossType


class PreferenceLoss(NamedTuple):
    """What became of n pairs; the rewards are detached."""

    loss: Tensor
    """(n,) of the log-probabilities' dtype: the loss of each pair."""
    chosen_reward: Tensor
    """(n,) beta times the log-ratio of the chosen completion, in nats: DPO's implicit reward."""
    rejected_reward: Tensor
    """(n,) the same of the rejected one."""


def preference_loss(
    chosen_logprob: Tensor,
    rejected_logprob: Tensor,
    ref_chosen_logprob: Tensor,
    ref_rejected_logprob: Tensor,
    *,
    beta: float,
    loss_type: PreferenceLossType = "sigmoid",
    label_smoothing: float = 0.0,
    margin: Tensor | None = None,
    lengths: tuple[Tensor, Tensor] | None = None,
) -> PreferenceLoss:
    """The loss of each preference pair; the module's table has the formulas.

    Args:
        chosen_logprob: (n,) sums over the completion's tokens of log pi(y_t), in nats.
        rejected_logprob: (n,) of the rejected completions.
        ref_chosen_logprob: (n,) under the frozen reference.
        ref_rejected_logprob: (n,) of the rejected completions under it.
        beta: greater than 0; how closely the policy is held to the reference.
        loss_type: one of `PreferenceLossType`.
        label_smoothing: share of pairs taken to be the wrong way round, in [0, 0.5); for `sigmoid` and `robust` only.
        margin: (n,) by which the score has to exceed 0; None: nothing.
        lengths: (n,) tokens of each chosen and of each rejected completion, which `ipo` needs.

    Raises:
        ValueError: an argument out of range, or one that the loss type does not have or lacks.
    """
    _check(beta, loss_type, label_smoothing, lengths)
    chosen_ratio = chosen_logprob - ref_chosen_logprob
    rejected_ratio = rejected_logprob - ref_rejected_logprob
    offset = torch.zeros_like(chosen_ratio) if margin is None else margin
    if loss_type == "ipo":
        assert lengths is not None
        difference = chosen_ratio / lengths[0] - rejected_ratio / lengths[1]
        loss = (difference - offset - 1 / (2 * beta)) ** 2
    else:
        score = beta * (chosen_ratio - rejected_ratio) - offset
        if loss_type == "hinge":
            loss = torch.relu(1 - score)
        else:
            right, flipped = -F.logsigmoid(score), -F.logsigmoid(-score)
            if loss_type == "robust":
                loss = ((1 - label_smoothing) * right - label_smoothing * flipped) / (1 - 2 * label_smoothing)
            else:
                loss = (1 - label_smoothing) * right + label_smoothing * flipped
    return PreferenceLoss(loss, beta * chosen_ratio.detach(), beta * rejected_ratio.detach())


def _check(beta: float, loss_type: str, label_smoothing: float, lengths: tuple[Tensor, Tensor] | None) -> None:
    if loss_type not in get_args(PreferenceLossType):
        raise ValueError(f"loss_type: got {loss_type!r}, expected one of {', '.join(get_args(PreferenceLossType))}")
    if not beta > 0:
        raise ValueError(f"beta: got {beta!r}, expected a number greater than 0")
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing: got {label_smoothing!r}, expected a number in [0, 0.5)")
    if label_smoothing and loss_type not in ("sigmoid", "robust"):
        raise ValueError(
            f"label_smoothing: got {label_smoothing!r} with {loss_type}, expected 0: only sigmoid and robust"
        )
    if loss_type == "ipo" and lengths is None:
        raise ValueError("lengths: got None, expected the tokens of each completion, which ipo needs")
